//go:build measure

package lab

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// qemuFiles is what QEMU opens by itself for -M microvm: its firmware.
var qemuFiles = []string{"qboot.rom", "bios-microvm.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin"}

const qemuShare = "/usr/share/qemu"

// TestLinuxSpeed measures exec → init → reboot of lupine-base under uvm and
// under QEMU's microvm, by turns, in one boot of the lab. `make -C bench linux`
// runs it; UVM_ROUNDS is the number of turns.
//
// Each of QEMU's machines has what its documentation recommends: no default
// devices, no option ROMs, no RTC, no ACPI (which also makes qboot the
// firmware). The console is the same ISA serial port.
func TestLinuxSpeed(t *testing.T) {
	dir := t.TempDir()
	kernel, err := LinuxKernel("lupine-base")
	if err != nil {
		t.Fatal(err)
	}
	g := LinuxGuest{Init: "reboot -f\n"}
	initrd, pairs := filepath.Join(dir, "initrd"), filepath.Join(dir, "pairs")
	if err := g.Initramfs(initrd); err != nil {
		t.Fatal(err)
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if err := goTool(root, "build", "-o", pairs, "./bench/pairs"); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/vm/kernel": kernel, "/vm/initrd": initrd, "/usr/bin/pairs": pairs}
	for _, f := range qemuFiles {
		files[qemuShare+"/"+f] = filepath.Join(qemuShare, f)
	}
	rounds := os.Getenv("UVM_ROUNDS")
	if rounds == "" {
		rounds = "7"
	}
	// The words that uvm adds by itself, plus quiet for both.
	const words = `-append "console=ttyS0 reboot=t panic=-1 quiet"`
	qemu := func(machine string) string {
		return "qemu-system-x86_64 -M microvm,x-option-roms=off,acpi=off,rtc=off" + machine + " -accel kvm -cpu host -m 256M -nodefaults -no-user-config" +
			" -display none -no-reboot -serial stdio -kernel kernel -initrd initrd " + words
	}
	Run(t, Options{Memory: 3 << 30, Files: files, Tools: []string{"qemu-system-x86_64"}}, Job{
		Name: "exec to reboot", Dir: "/vm", Bound: 20 * time.Minute,
		Argv: []string{"pairs", "-warmup", "1", "-n", rounds,
			"uvm: uvm run kernel -m 256M --initrd initrd --cmdline quiet",
			"qemu: " + qemu(""),
			"qemu-no-pit: " + qemu(",pit=off,pic=off"),
		},
		Check: func(t *testing.T, r *Result) {
			t.Logf("\n%s", r.Stdout)
			if r.Status != 0 {
				t.Errorf("pairs: status %d\n%s", r.Status, r.Stderr)
			}
		},
	})
}
