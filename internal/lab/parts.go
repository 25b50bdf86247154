package lab

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// EnvCache is the folder that keeps the kernel between runs.
const EnvCache = "UVM_LAB_CACHE"

// Parts are what the lab is made of and this repository does not build.
type Parts struct {
	QEMU    string // path of qemu-system-x86_64
	Busybox string // path of a static busybox
	Kernel  string // path of vmlinuz
	Version string // of the kernel's package

	index cacheIndex
	dir   string // holds vmlinuz and modules
	lock  *os.File
}

// cacheIndex describes the cached kernel: the file kernel.json, which is
// replaced as a whole.
type cacheIndex struct {
	Package, Version string
	Dir              string            // beside kernel.json
	Sums             map[string]string // SHA-256 of each file in Dir
}

const (
	indexName  = "kernel.json"
	kernelName = "vmlinuz"
)

// FindParts looks for the programs and the cached kernel, and fetches the
// kernel if it is not there or damaged. The cache stays locked against
// replacement until Close.
func FindParts() (*Parts, error) {
	p := &Parts{}
	var err error
	if p.QEMU, err = program("qemu-system-x86_64", "qemu-system-x86"); err != nil {
		return nil, err
	}
	if p.Busybox, err = program("busybox", "busybox-static"); err != nil {
		return nil, err
	}
	if err := checkStatic(p.Busybox); err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	if err := p.openKernel(cache); err != nil {
		return nil, fmt.Errorf("lab: kernel cache %s: %w", cache, err)
	}
	return p, nil
}

// Close lets go of the cache.
func (p *Parts) Close() error { return p.lock.Close() }

func program(name, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("lab: %w; sudo apt-get install %s, or set %s=1 to skip what needs the lab", err, pkg, EnvNoLab)
	}
	return path, nil
}

func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("lab: %s: %w; sudo apt-get install busybox-static", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("lab: %s is not statically linked; sudo apt-get install busybox-static", path)
		}
	}
	return nil
}

func cacheDir() (string, error) {
	dir := os.Getenv(EnvCache)
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("lab: no folder for the kernel: %w; or set %s", err, EnvCache)
		}
		dir = filepath.Join(base, "uvm", "lab")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("lab: %w; set %s to a folder that can be written", err, EnvCache)
	}
	return dir, nil
}

// openKernel takes the cache's lock for reading and checks the kernel. If that
// fails it takes it for writing and fetches another one, unless somebody else
// has done so meanwhile.
func (p *Parts) openKernel(cache string) error {
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	p.lock = lock
	for _, mode := range []int{unix.LOCK_SH, unix.LOCK_EX} {
		if err = flock(lock, mode); err != nil {
			break
		}
		if err = p.readKernel(cache); err == nil {
			break
		}
	}
	if err != nil {
		if err = fetch(cache, err); err == nil {
			err = p.readKernel(cache)
		}
	}
	if err == nil {
		err = flock(lock, unix.LOCK_SH)
	}
	if err != nil {
		lock.Close()
	}
	return err
}

func flock(f *os.File, mode int) error {
	for {
		if err := unix.Flock(int(f.Fd()), mode); err != unix.EINTR {
			return err
		}
	}
}

// readKernel reads the index and checks the kernel's digest.
func (p *Parts) readKernel(cache string) error {
	data, err := os.ReadFile(filepath.Join(cache, indexName))
	if err != nil {
		return err
	}
	var index cacheIndex
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("%s: %w", indexName, err)
	}
	p.index, p.Version = index, index.Version
	p.dir = filepath.Join(cache, index.Dir)
	p.Kernel = filepath.Join(p.dir, kernelName)
	if _, err := p.read(kernelName); err != nil {
		return err
	}
	// All of what every boot needs, so that damage is found while it can
	// still be mended.
	_, err = p.modules(standardModules)
	return err
}

// read returns a cached file whose digest is the one recorded.
func (p *Parts) read(name string) ([]byte, error) {
	want, ok := p.index.Sums[name]
	if !ok {
		return nil, fmt.Errorf("package %s has no %s", p.index.Package, name)
	}
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		return nil, err
	}
	if got := digest(b); got != want {
		return nil, fmt.Errorf("%s is damaged: SHA-256 %s, %s when downloaded", filepath.Join(p.dir, name), got, want)
	}
	return b, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// standardModules are loaded in every boot: KVM, TAP interfaces, disks and the
// way out for events.
var standardModules = []string{"kvm-amd", "tun", "virtio_pci", "virtio_blk", "virtio_console"}

// module is a kernel module.
type module struct {
	file    string // "kvm-amd.ko"
	content []byte
}

// modules returns the modules called names and those that they need, in the
// order in which they can be loaded.
func (p *Parts) modules(names []string) ([]module, error) {
	var order []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		// Files are called by either sign; modinfo says which it uses of itself only.
		file := name + ".ko"
		if _, ok := p.index.Sums[file]; !ok {
			file = strings.ReplaceAll(name, "_", "-") + ".ko"
		}
		b, err := p.read(file)
		if err != nil {
			return err
		}
		depends, err := moduleDepends(b)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		order = append(order, module{file, b})
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleDepends reads the "depends" entry of a module's .modinfo section.
func moduleDepends(ko []byte) ([]string, error) {
	f, err := elf.NewFile(strings.NewReader(string(ko)))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no .modinfo section: not a kernel module")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return slices.Collect(strings.SplitSeq(list, ",")), nil
		}
	}
	return nil, nil
}
