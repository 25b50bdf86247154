package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kernelMeta is the package that depends on Debian's current cloud kernel: it
// has KVM, TAP and virtio, and no drivers that the lab would never need.
const kernelMeta = "linux-image-cloud-amd64"

// fetchBound bounds every command of a fetch.
const fetchBound = 4 * time.Minute

// fetch downloads Debian's kernel, unpacks it beside the index, records the
// digests and replaces the index. apt has checked the package against Debian's
// signed index. The caller holds the cache's lock for writing. why is what was
// wrong with the cache before.
func fetch(cache string, why error) (err error) {
	fmt.Fprintf(os.Stderr, "lab: fetching Debian's cloud kernel into %s (%v)\n", cache, why)
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w; the lab's kernel comes from Debian's archive: run on Debian, copy a filled %s there, or set %s=1 to skip", err, EnvCache, EnvNoLab)
		}
	}
	removeOld(cache)
	if err := checkRoom(cache); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	a := apt{dir: tmp}
	pkg, deb, err := a.download()
	if err != nil {
		// The lists may be missing or too old. New ones, of our own:
		// the machine's are not ours to change.
		fmt.Fprintf(os.Stderr, "lab: %v; trying again with new package lists\n", err)
		if err := a.update(); err != nil {
			return err
		}
		if pkg, deb, err = a.download(); err != nil {
			return err
		}
	}
	version, err := run(tmp, "dpkg-deb", "--field", deb, "Version")
	if err != nil {
		return err
	}
	files := filepath.Join(tmp, "x")
	if _, err := run(tmp, "dpkg-deb", "--extract", deb, files); err != nil {
		return err
	}
	index := cacheIndex{Package: pkg, Version: strings.TrimSpace(version), Sums: map[string]string{}}
	dir, err := os.MkdirTemp(cache, "kernel-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	index.Dir = filepath.Base(dir)
	if err := collect(files, dir, index.Sums); err != nil {
		return fmt.Errorf("%s: %w", pkg, err)
	}
	data, err := json.MarshalIndent(&index, "", "\t")
	if err != nil {
		return err
	}
	next := filepath.Join(tmp, indexName)
	if err := os.WriteFile(next, data, 0o644); err != nil {
		return err
	}
	unix.Sync() // the index must not be on disk before the files
	return os.Rename(next, filepath.Join(cache, indexName))
}

// fetchRoom is what a fetch takes in bytes: the package and what is in it.
const fetchRoom = 200 << 20

func checkRoom(cache string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(cache, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", cache, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < fetchRoom {
		return fmt.Errorf("%d MiB are free there, the lab's kernel needs %d: make room, or set %s to another folder", free>>20, fetchRoom>>20, EnvCache)
	}
	return nil
}

// collect moves the kernel and its modules from an unpacked package into dir
// and records their digests.
func collect(from, dir string, sums map[string]string) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name := d.Name()
		switch {
		case strings.HasPrefix(name, "vmlinuz-"):
			name = kernelName
		case strings.HasSuffix(name, ".ko"):
		default:
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sums[name] = digest(b)
		return os.Rename(path, filepath.Join(dir, name))
	})
	if err != nil {
		return err
	}
	for _, name := range []string{kernelName, "kvm.ko", "kvm-amd.ko"} {
		if sums[name] == "" {
			return fmt.Errorf("the package has no %s; the lab knows the kernel packages of Debian 12", name)
		}
	}
	return nil
}

// removeOld removes what earlier and interrupted fetches left. Nobody uses it:
// the cache is locked for writing.
func removeOld(cache string) {
	for _, pattern := range []string{"fetch-*", "kernel-*"} {
		old, _ := filepath.Glob(filepath.Join(cache, pattern))
		for _, dir := range old {
			_ = os.RemoveAll(dir) // what stays costs room, nothing else
		}
	}
}

// apt runs apt's programs with files of its own in dir.
type apt struct {
	dir     string
	options []string
}

var dependsLine = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-\S+)$`)

// download fetches the current kernel's package.
func (a *apt) download() (pkg, deb string, err error) {
	out, err := run(a.dir, "apt-cache", append(a.options, "depends", kernelMeta)...)
	if err != nil {
		return "", "", err
	}
	m := dependsLine.FindStringSubmatch(out)
	if m == nil {
		return "", "", fmt.Errorf("apt-cache depends %s names no kernel; is Debian's archive in /etc/apt/sources.list?", kernelMeta)
	}
	// Secure Boot's signatures are of no use here.
	pkg = strings.TrimSuffix(m[1], "-unsigned") + "-unsigned"
	args := append([]string{"-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30"}, a.options...)
	if _, err := run(a.dir, "apt-get", append(args, "download", pkg)...); err != nil {
		return "", "", err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, pkg+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", "", fmt.Errorf("apt-get download %s left %d files; want one", pkg, len(debs))
	}
	return pkg, debs[0], nil
}

// update fetches package lists into dir, which needs no privilege.
func (a *apt) update() error {
	lists, cache := filepath.Join(a.dir, "lists"), filepath.Join(a.dir, "cache")
	for _, d := range []string{filepath.Join(lists, "partial"), filepath.Join(cache, "archives", "partial")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	a.options = []string{"-o", "Dir::State::lists=" + lists, "-o", "Dir::Cache=" + cache}
	_, err := run(a.dir, "apt-get", append([]string{"-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3",
		"-o", "Acquire::http::Timeout=30"}, append(a.options, "-qq", "update")...)...)
	if err != nil {
		return fmt.Errorf("%w; the lab's kernel comes from Debian's archive: is the network there? (%s=1 skips what needs the lab)", err, EnvNoLab)
	}
	return nil
}

// run runs a command in dir and returns its standard output; its error holds
// what the command had to say.
func run(dir string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = fmt.Errorf("%w after %v", cause, fetchBound)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
