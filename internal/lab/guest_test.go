package lab

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLinuxGuest makes both forms of a guest, looks into them with busybox and
// debugfs, and makes the initramfs once more: the same bytes.
func TestLinuxGuest(t *testing.T) {
	Require(t)
	g := LinuxGuest{Init: "echo here\n", Peer: true}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"cpio", "again"} {
		if err := g.Initramfs(path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Ext4(path("ext4"), 16<<20); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path("cpio"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(path("again")); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the second initramfs differs from the first (%v)", err)
	}

	cpio := exec.Command("busybox", "cpio", "-t")
	cpio.Stdin = bytes.NewReader(first)
	names, err := cpio.CombinedOutput()
	if err != nil {
		t.Fatalf("busybox cpio: %v\n%s", err, names)
	}
	for _, want := range []string{"init", "bin/busybox", "bin/sh", "bin/peer", "bin/uvm-mark", "dev/console", "proc"} {
		if !strings.Contains("\n"+string(names), "\n"+want+"\n") {
			t.Errorf("the initramfs has no %s", want)
		}
	}

	fsck, err := tool("e2fsck")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(fsck, "-fn", path("ext4")).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	debugfs, err := tool("debugfs")
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]string{
		"cat /sbin/init": guestPrologue + g.Init, "stat /bin/sh": `Fast link dest: "busybox"`, "stat /bin/peer": "Mode:  0755", "stat /dev": "Type: directory",
	} {
		if out, err := exec.Command(debugfs, "-R", request, path("ext4")).Output(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("debugfs %s = %q, %v; want %q in it", request, out, err, want)
		}
	}
}

func TestLinuxGuestErrors(t *testing.T) {
	Require(t)
	g := LinuxGuest{Init: "true\n"}
	file := filepath.Join(t.TempDir(), "small")
	if err := g.Ext4(file, 1<<20); err == nil || !strings.Contains(err.Error(), "mke2fs") {
		t.Errorf("Ext4(1 MiB) = %v; want an error of mke2fs's", err)
	}
	if err := g.Ext4("/no/such/folder/file", 16<<20); err == nil {
		t.Error("Ext4(/no/such/folder/file) = nil; want an error")
	}
	if err := g.Initramfs("/no/such/folder/file"); err == nil {
		t.Error("Initramfs(/no/such/folder/file) = nil; want an error")
	}
	if file, err := LinuxKernel("no-such"); err == nil || !strings.Contains(err.Error(), "make -C guests/lupine no-such") {
		t.Errorf("LinuxKernel(no-such) = %s, %v; want the command that makes it", file, err)
	}
}

// TestMarkUsage gives uvm-mark what it refuses before it touches the port. That
// it writes is TestLinux's.
func TestMarkUsage(t *testing.T) {
	Require(t)
	p, err := forGuests()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "uvm-mark")
	if err := os.WriteFile(file, p.mark, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {""}, {"256"}, {"-1"}, {"1x"}, {"99999999999999999999"}, {"1", "2"}} {
		out, err := exec.Command(file, args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.HasPrefix(string(out), "usage: uvm-mark N") {
			t.Errorf("uvm-mark %q = %v, %q; want status 2 and the usage", args, err, out)
		}
	}
}
