package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// LinuxGuest is the user land of a Linux guest: busybox with all its commands
// and uvm-mark in /bin, and a script as process 1. Making it needs neither root
// nor a mount.
type LinuxGuest struct {
	// Init is the script, for busybox's sh. /dev is mounted when it starts, and
	// /proc, /sys and /tmp if the kernel has them. When it ends, the guest panics.
	Init string
	// Peer adds internal/lab/peer. It needs lupine-general, or more.
	Peer bool
	// Tree is a folder whose files are in the guest too: on a disk as they are
	// (see AppTree), in an initramfs all executable, and no links.
	Tree string
}

// guestPrologue mounts what every script expects. In an initramfs nobody has
// mounted /dev, on a disk the kernel has.
const guestPrologue = `#!/bin/sh
export PATH=/bin HOME=/
[ -e /dev/null ] || mount -t devtmpfs dev /dev
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sys /sys 2>/dev/null
mount -t tmpfs tmp /tmp 2>/dev/null
`

// guestPrograms are what this repository builds for Linux guests.
type guestPrograms struct {
	busybox    string   // path
	applets    []string // its commands
	peer, mark []byte
}

// forGuests builds uvm-mark and peer, once in a process.
var forGuests = sync.OnceValues(func() (*guestPrograms, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "uvm-lab-guest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	p := &guestPrograms{}
	if p.busybox, err = program("busybox", "busybox-static"); err != nil {
		return nil, err
	}
	if err := checkStatic(p.busybox); err != nil {
		return nil, err
	}
	applets, err := run("/", p.busybox, "--list")
	if err != nil {
		return nil, err
	}
	p.applets = strings.Fields(applets)
	peer := filepath.Join(tmp, "peer")
	if err := goBuild(root, peer, "./internal/lab/peer"); err != nil {
		return nil, err
	}
	if p.peer, err = os.ReadFile(peer); err != nil {
		return nil, err
	}
	if err := makeGuest(root, tmp, "uvm-mark"); err != nil {
		return nil, err
	}
	p.mark, err = os.ReadFile(filepath.Join(tmp, "uvm-mark"))
	return p, err
})

// WritePeer writes the program peer for the other side of a transfer.
func WritePeer(file string) error {
	p, err := forGuests()
	if err != nil {
		return err
	}
	return os.WriteFile(file, p.peer, 0o755)
}

// Initramfs writes the guest as an initramfs.
func (g *LinuxGuest) Initramfs(file string) (err error) {
	p, err := forGuests()
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a := newArchive(f)
	// The kernel opens it before process 1 could mount anything.
	a.device("/dev/console", 5, 1)
	for _, dir := range guestDirs {
		a.entry(dir, modeDir, 0, 0, 0)
	}
	a.bytes("/init", modeExec, []byte(guestPrologue+g.Init))
	a.file("/bin/busybox", p.busybox)
	for _, name := range p.applets {
		if name != "busybox" {
			a.link("/bin/"+name, "busybox")
		}
	}
	a.bytes("/bin/uvm-mark", modeExec, p.mark)
	if g.Peer {
		a.bytes("/bin/peer", modeExec, p.peer)
	}
	if g.Tree != "" {
		err := fs.WalkDir(os.DirFS(g.Tree), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(filepath.Join(g.Tree, name))
			a.bytes("/"+name, modeExec, b)
			return err
		})
		if err != nil {
			return err
		}
	}
	return a.close()
}

var guestDirs = []string{"/proc", "/sys", "/tmp", "/root"}

// Ext4 writes the guest as an ext4 file system of size bytes, whose process 1
// is /sbin/init.
func (g *LinuxGuest) Ext4(file string, size int64) (err error) {
	p, err := forGuests()
	if err != nil {
		return err
	}
	mke2fs, err := tool("mke2fs")
	if err != nil {
		return fmt.Errorf("%w, from package e2fsprogs", err)
	}
	tmp, err := os.MkdirTemp("", "uvm-lab-ext4-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if g.Tree != "" {
		if err := os.CopyFS(tmp, os.DirFS(g.Tree)); err != nil {
			return err
		}
	}
	for _, dir := range append([]string{"/bin", "/sbin", "/dev"}, guestDirs...) {
		if err := os.MkdirAll(tmp+dir, 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile(p.busybox)
	if err != nil {
		return err
	}
	files := map[string][]byte{"/sbin/init": []byte(guestPrologue + g.Init), "/bin/busybox": busybox, "/bin/uvm-mark": p.mark}
	if g.Peer {
		files["/bin/peer"] = p.peer
	}
	for name, b := range files {
		if err := os.WriteFile(tmp+name, b, 0o755); err != nil {
			return err
		}
	}
	for _, name := range p.applets {
		if name == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", tmp+"/bin/"+name); err != nil && (g.Tree == "" || !errors.Is(err, fs.ErrExist)) {
			return err
		}
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(file, size); err != nil {
		return err
	}
	cmd := exec.Command(mke2fs, "-q", "-F", "-t", "ext4", "-d", tmp, "-E", "root_owner=0:0", file, strconv.FormatInt(size>>10, 10)+"k")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// tool finds a program of this machine's, also where only root's PATH leads.
func tool(name string) (string, error) {
	file, err := exec.LookPath(name)
	if err == nil {
		return file, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if file, e := exec.LookPath(dir + name); e == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("lab: tool: %w; install it on this machine", err)
}

// LinuxKernel returns the path of a kernel that guests/lupine has built.
func LinuxKernel(name string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	file := filepath.Join(root, "bin", "guests", name+".vmlinux")
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("%w; run make -C guests/lupine %s (4 minutes, once)", err, name)
	}
	return file, nil
}

// AppTree returns the folder of an application's root file system, which
// guests/lupine/app.sh makes from Debian's packages.
func AppTree(name string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir, err := run(root, "guests/lupine/app.sh", name)
	return strings.TrimSpace(dir), err
}
