package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// script writes a program into a folder.
func script(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// onlyOnPath makes a folder with links to programs the whole of PATH.
func onlyOnPath(t *testing.T, names ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	return dir
}

// noParts checks that there are none, and what the error says.
func noParts(t *testing.T, parts ...string) {
	t.Helper()
	p, err := FindParts()
	if err == nil {
		p.Close()
		t.Fatalf("FindParts() = %+v; want an error with %q", p, parts)
	}
	for _, s := range parts {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("FindParts() = %v; want %q in it", err, s)
		}
	}
}

func TestMissingPrograms(t *testing.T) {
	Require(t)
	t.Setenv(EnvCache, t.TempDir())
	t.Run("no QEMU", func(t *testing.T) {
		onlyOnPath(t)
		noParts(t, "qemu-system-x86_64", "apt-get install qemu-system-x86", EnvNoLab)
	})
	t.Run("no busybox", func(t *testing.T) {
		onlyOnPath(t, "qemu-system-x86_64")
		noParts(t, "apt-get install busybox-static")
	})
	t.Run("dynamic busybox", func(t *testing.T) {
		dir := onlyOnPath(t, "qemu-system-x86_64", "ls")
		if err := os.Rename(filepath.Join(dir, "ls"), filepath.Join(dir, "busybox")); err != nil {
			t.Fatal(err)
		}
		noParts(t, "not statically linked", "apt-get install busybox-static")
	})
	t.Run("no apt", func(t *testing.T) {
		onlyOnPath(t, "qemu-system-x86_64", "busybox")
		noParts(t, "apt-get", "run on Debian", EnvCache, EnvNoLab)
	})
}

// fakeApt puts stand-ins for apt's programs before the real ones in PATH:
// downloads come from deb, and are counted in the file that it returns.
func fakeApt(t *testing.T, deb string) (count string) {
	t.Helper()
	dir := t.TempDir()
	count = filepath.Join(dir, "count")
	script(t, dir, "apt-cache", "echo '  Depends: linux-image-9.9.9-cloud-amd64'\n")
	script(t, dir, "apt-get", `case $* in
*download*) echo download >>`+count+`; cp "`+deb+`" linux-image-9.9.9-cloud-amd64-unsigned_9_amd64.deb ;;
*update*) echo update >>`+count+` ;;
esac
`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return count
}

// fakeKernel is a package with the real modules and files that are no kernel.
func fakeKernel(t *testing.T, omit string) (deb string) {
	t.Helper()
	p, err := FindParts()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	mods, err := p.modules(standardModules)
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	files := map[string][]byte{
		"DEBIAN/control":                      []byte("Package: fake\nVersion: 9\nArchitecture: amd64\nMaintainer: nobody\nDescription: fake\n"),
		"boot/vmlinuz-9.9.9":                  []byte("no kernel"),
		"lib/modules/9.9.9/kernel/other/x.ko": []byte("no module"),
	}
	for _, m := range mods {
		files["lib/modules/9.9.9/kernel/"+m.file] = m.content
	}
	for name, content := range files {
		if filepath.Base(name) == omit {
			continue
		}
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	deb = filepath.Join(t.TempDir(), "fake.deb")
	if out, err := exec.Command("dpkg-deb", "-Znone", "--build", tree, deb).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	return deb
}

func fetches(t *testing.T, count string) int {
	t.Helper()
	b, err := os.ReadFile(count)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(b), "download\n")
}

// TestCache fills a cache from several processes' places at once, damages it in
// every way, and looks whether each time one fetch mends it.
func TestCache(t *testing.T) {
	Require(t)
	deb := fakeKernel(t, "")
	cache := filepath.Join(t.TempDir(), "not", "there", "yet")
	t.Setenv(EnvCache, cache)
	count := fakeApt(t, deb)
	var wg sync.WaitGroup
	for range 4 {
		// A lock belongs to an open file: goroutines are as good as processes.
		wg.Go(func() {
			p, err := FindParts()
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			if b, err := p.read(kernelName); err != nil || string(b) != "no kernel" || p.Version != "9" {
				t.Errorf("kernel of version %s = %q, %v", p.Version, b, err)
			}
		})
	}
	wg.Wait()
	if n := fetches(t, count); n != 1 {
		t.Fatalf("four at once made %d fetches; want one", n)
	}
	index := filepath.Join(cache, indexName)
	for i, damage := range []struct {
		name string
		do   func(dir string) error
	}{
		{"a byte of the kernel", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, kernelName), []byte("no kerne1"), 0o644)
		}},
		{"the end of a module", func(dir string) error { return os.Truncate(filepath.Join(dir, "kvm.ko"), 100) }},
		{"a module", func(dir string) error { return os.Remove(filepath.Join(dir, "kvm-amd.ko")) }},
		{"everything", os.RemoveAll},
		{"the end of the index", func(string) error { return os.Truncate(index, 40) }},
		{"the index", func(string) error { return os.Remove(index) }},
		{"an interrupted fetch", func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(cache, "fetch-1"), 0o755), os.Remove(index))
		}},
	} {
		p, err := FindParts()
		if err != nil {
			t.Fatal(err)
		}
		if n := fetches(t, count); n != i+1 {
			t.Fatalf("before damage %d there were %d fetches; want %[1]d+1: a good cache is used as it is", i, n)
		}
		dir := p.dir
		p.Close()
		if err := damage.do(dir); err != nil {
			t.Fatal(err)
		}
		if p, err = FindParts(); err != nil {
			t.Fatalf("after damage to %s: %v", damage.name, err)
		}
		p.Close()
		if n := fetches(t, count); n != i+2 {
			t.Errorf("after damage to %s: %d fetches; want %d", damage.name, n, i+2)
		}
	}
	// What is left: the index, the lock, one kernel.
	if names, err := os.ReadDir(cache); err != nil || len(names) != 3 {
		t.Errorf("the cache has %v, %v; want three names", names, err)
	}
}

// TestFetchFails has each step of a fetch fail: no cache may come of it.
func TestFetchFails(t *testing.T) {
	Require(t)
	good, noAMD := fakeKernel(t, ""), fakeKernel(t, "kvm-amd.ko")
	text := filepath.Join(t.TempDir(), "text.deb")
	if err := os.WriteFile(text, []byte("no package"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, deb string
		stand     map[string]string // stand-ins
		want      []string
	}{
		{"no network", good, map[string]string{"apt-get": "echo 'E: Failed to fetch: no route' >&2; exit 100\n"}, []string{"E: Failed to fetch: no route", "is the network there?", EnvNoLab}},
		{"another archive", good, map[string]string{"apt-cache": "echo linux-image-cloud-amd64\n"}, []string{"names no kernel", "sources.list"}},
		{"unknown package", good, map[string]string{"apt-cache": "echo 'E: No packages found' >&2; exit 100\n"}, []string{"E: No packages found"}},
		{"nothing comes", good, map[string]string{"apt-get": "exit 0\n"}, []string{"left 0 files"}},
		{"no package", text, nil, []string{"dpkg-deb"}},
		{"no kvm-amd.ko", noAMD, nil, []string{"kvm-amd.ko", "Debian 12"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := t.TempDir()
			t.Setenv(EnvCache, cache)
			fakeApt(t, c.deb)
			dir, _, _ := strings.Cut(os.Getenv("PATH"), ":")
			for name, text := range c.stand {
				script(t, dir, name, text)
			}
			noParts(t, append(c.want, cache)...)
			if names, err := os.ReadDir(cache); err != nil || len(names) != 1 {
				t.Errorf("the cache has %v, %v; want the lock alone", names, err)
			}
		})
	}
}

// TestStaleLists has the first download fail, as with lists that are too old.
func TestStaleLists(t *testing.T) {
	Require(t)
	deb := fakeKernel(t, "")
	t.Setenv(EnvCache, t.TempDir())
	count := fakeApt(t, deb)
	dir := filepath.Dir(count)
	script(t, dir, "apt-get", `case $* in
*Dir::State::lists=*download*) cp "`+deb+`" linux-image-9.9.9-cloud-amd64-unsigned_9_amd64.deb ;;
*download*) echo 'E: 404 Not Found' >&2; exit 100 ;;
esac
`)
	p, err := FindParts()
	if err != nil {
		t.Fatalf("FindParts() = %v; want a second try with new lists", err)
	}
	p.Close()
}

// TestFullDisk fetches onto a disk of one MiB.
func TestFullDisk(t *testing.T) {
	Require(t)
	testutil.RequireRoot(t)
	dir := t.TempDir()
	t.Setenv(EnvCache, dir)
	done := make(chan error)
	go func() {
		// The thread has a file system name space of its own, and ends with
		// the goroutine.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
				return fmt.Errorf("mount: %w", err)
			}
			p, err := FindParts()
			if err == nil {
				p.Close()
			}
			return err
		}()
	}()
	err := <-done
	if want := EnvCache + " to another folder"; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
		t.Errorf("FindParts() on a full disk = %v; want %q and %s in it", err, want, dir)
	}
}

// TestModuleOrder checks that what a module needs is loaded before it.
func TestModuleOrder(t *testing.T) {
	Require(t)
	p, err := FindParts()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	mods, err := p.modules([]string{"kvm-amd", "virtio_blk", "kvm_amd"})
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, m := range mods {
		at[m.file] = i + 1
	}
	for _, pair := range [][2]string{{"irqbypass.ko", "kvm.ko"}, {"kvm.ko", "kvm-amd.ko"}, {"virtio_ring.ko", "virtio.ko"}, {"virtio.ko", "virtio_blk.ko"}} {
		if at[pair[0]] == 0 || at[pair[0]] >= at[pair[1]] {
			t.Errorf("order = %v; want %s before %s", at, pair[0], pair[1])
		}
	}
	if _, err := p.modules([]string{"no_such"}); err == nil || !strings.Contains(err.Error(), "no-such.ko") {
		t.Errorf("modules(no_such) = %v; want an error with its name", err)
	}
}
