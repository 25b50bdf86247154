//go:build measure

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// blkMachines are what TestBlkSpeed compares: bare io_uring in the lab itself, uvm, and
// QEMU's microvm as its documentation recommends it, with each kind of asynchronous I/O, in its
// main loop and in an I/O thread.
var blkMachines = []struct{ name, command string }{
	{"bare", "blkspeed /disk/data $MS $CACHE"},
	{"uvm", `uvm run kernel -m 256M --initrd initrd --disk "/disk/data,cache=$CACHE" --cmdline "quiet ms=$MS"`},
	{"peer", `./peer run kernel -m 256M --initrd initrd --disk "/disk/data,cache=$CACHE" --cmdline "quiet ms=$MS"`},
	{"qemu threads", fmt.Sprintf(blkQEMU, "threads", "")},
	{"qemu native", fmt.Sprintf(blkQEMU, "native", "")},
	{"qemu io_uring", fmt.Sprintf(blkQEMU, "io_uring", "")},
	{"qemu threads, iothread", fmt.Sprintf(blkQEMU, "threads", ",iothread=io")},
	{"qemu native, iothread", fmt.Sprintf(blkQEMU, "native", ",iothread=io")},
	{"qemu io_uring, iothread", fmt.Sprintf(blkQEMU, "io_uring", ",iothread=io")},
}

const blkQEMU = `qemu-system-x86_64 -M microvm,x-option-roms=off,acpi=off,rtc=off -accel kvm -cpu host -m 256M -nodefaults -no-user-config` +
	` -display none -no-reboot -serial stdio -kernel kernel -initrd initrd -append "console=ttyS0 reboot=t panic=-1 quiet ms=$MS"` +
	` -global virtio-mmio.force-legacy=false -object iothread,id=io -drive file=/disk/data,format=raw,if=none,id=d,cache=$CACHE,aio=%s` +
	` -device virtio-blk-device,drive=d%s`

// blkFigures are what blkspeed measures.
var blkFigures = []struct {
	what  string
	depth int
	unit  string
}{
	{"random read", 1, "IOPS"}, {"random read", 32, "IOPS"}, {"random write", 1, "IOPS"}, {"random write", 32, "IOPS"},
	{"sequential read", 4, "MiB/s"}, {"sequential write", 4, "MiB/s"},
}

// TestBlkSpeed measures uvm's virtio-blk against QEMU's and against bare io_uring by turns, in
// one boot of the lab: the same kernel, the same file on ext4, the same cache mode, a fresh VM
// each time. `make -C bench blk` runs it; UVM_ROUNDS is the number of turns, UVM_MS how long
// each measurement takes, UVM_ICOUNT=1 has time follow instructions and the file lie on a RAM disk, UVM_JSON is a file for the
// raw figures. UVM_MACHINES picks machines by the start of their names, as bare;uvm, UVM_CACHES the
// modes, and UVM_PEER is another uvm to measure beside.
func TestBlkSpeed(t *testing.T) {
	dir := t.TempDir()
	kernel, err := LinuxKernel("lupine-general")
	if err != nil {
		t.Fatal(err)
	}
	must := func(argv ...string) {
		t.Helper()
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	program, initrd, disk := filepath.Join(dir, "tree/bin/blkspeed"), filepath.Join(dir, "initrd"), filepath.Join(dir, "disk.img")
	must("mkdir", "-p", filepath.Dir(program), filepath.Join(dir, "disk"))
	must("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, "testdata/blkspeed.c")
	must("sh", "-c", "yes | head -c 64M >"+filepath.Join(dir, "disk/data"))
	must("mke2fs", "-q", "-t", "ext4", "-d", filepath.Join(dir, "disk"), disk, "128M")
	g := LinuxGuest{Init: "blkspeed /dev/vda $ms\nreboot -f\n", Tree: filepath.Join(dir, "tree")}
	if err := g.Initramfs(initrd); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/vm/kernel": kernel, "/vm/initrd": initrd, "/usr/bin/blkspeed": program}
	for _, f := range qemuFiles {
		files[qemuShare+"/"+f] = filepath.Join(qemuShare, f)
	}
	if p := os.Getenv("UVM_PEER"); p != "" {
		files["/vm/peer"] = p
	}
	script := "mkdir /disk\nmount -t ext4 /dev/vda /disk\n"
	if os.Getenv("UVM_ICOUNT") == "1" { // the time of a disk of the host's is not counted in instructions
		script = "mkdir /disk\nmke2fs -q -t ext4 -b 4096 -O ^has_journal /dev/ram0\nmount -t ext4 /dev/ram0 /disk\nyes | head -c 12582912 >/disk/data\nsync\n"
	}
	// The first VM of a boot is slower than all others.
	script += "(CACHE=none MS=1\n" + blkMachines[1].command + ") </dev/null >/dev/null\n"
	script += "for turn in $(seq $ROUNDS); do for CACHE in $CACHES; do\n"
	only := strings.Split(os.Getenv("UVM_MACHINES"), ";")
	for _, m := range blkMachines {
		if !slices.ContainsFunc(only, func(o string) bool { return strings.HasPrefix(m.name, o) }) {
			continue
		}
		run := fmt.Sprintf("echo machine $CACHE: %s\n%s </dev/null 2>&1 | tr -d '\\r'\n", m.name, m.command)
		if strings.Contains(m.command, "aio=native") { // which QEMU has for direct I/O only
			run = "if [ $CACHE = none ]; then\n" + run + "fi\n"
		}
		script += run
	}
	env := []string{"ROUNDS=" + envOr("UVM_ROUNDS", "5"), "MS=" + envOr("UVM_MS", "1000"), "CACHES=" + envOr("UVM_CACHES", "none writeback")}
	Run(t, Options{Memory: 2 << 30, ICount: os.Getenv("UVM_ICOUNT") == "1", Files: files, Disks: []Disk{{Path: disk}}, Modules: []string{"brd"}, Tools: []string{"qemu-system-x86_64", "bash", "mke2fs"}}, Job{
		Name: "disk", Dir: "/vm", Bound: 60 * time.Minute, Env: env, Argv: []string{"bash", "-ec", script + "done; done\n"},
		Check: func(t *testing.T, r *Result) {
			if r.Status != 0 {
				t.Errorf("status %d\n%s", r.Status, r.Stderr)
			}
			if os.Getenv("UVM_JSON") == "" {
				t.Logf("%s", r.Stdout)
			}
			blkReport(t, r.Stdout)
		},
	})
}

// writeRaw puts the figures of a measurement into the file UVM_JSON, if that is set.
func writeRaw(t *testing.T, raw any) {
	file := os.Getenv("UVM_JSON")
	if file == "" {
		return
	}
	b, err := json.MarshalIndent(raw, "", "  ")
	if err == nil {
		err = os.WriteFile(file, b, 0o666)
	}
	if err != nil {
		t.Error(err)
	}
}

// blkReport prints medians, and what they are of QEMU's best and of bare io_uring.
func blkReport(t *testing.T, out string) {
	type sample struct {
		Cache   string  `json:"cache"`
		Machine string  `json:"machine"`
		What    string  `json:"what"`
		Block   int     `json:"block"`
		Depth   int     `json:"depth"`
		Ops     uint64  `json:"ops"`
		Seconds float64 `json:"seconds"`
	}
	var raw []sample
	rates := map[string][]float64{}
	cache, machine := "", ""
	for _, line := range strings.Split(out, "\n") {
		if m, ok := strings.CutPrefix(line, "machine "); ok {
			cache, machine, _ = strings.Cut(m, ": ")
			continue
		}
		s := sample{Cache: cache, Machine: machine}
		if json.Unmarshal([]byte(line), &s) != nil || s.Ops == 0 || s.What == "warm" {
			continue
		}
		raw = append(raw, s)
		key := fmt.Sprint(cache, machine, s.What, s.Depth)
		rates[key] = append(rates[key], float64(s.Ops)/s.Seconds)
	}
	writeRaw(t, raw)
	for _, cache := range strings.Fields(envOr("UVM_CACHES", "none writeback")) {
		for _, f := range blkFigures {
			median := func(machine string) float64 {
				x := rates[fmt.Sprint(cache, machine, f.what, f.depth)]
				if len(x) == 0 {
					return 0
				}
				slices.Sort(x)
				return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
			}
			best := 0.0
			for _, m := range blkMachines[3:] {
				best = max(best, median(m.name))
			}
			for _, m := range blkMachines {
				if r := median(m.name); r > 0 {
					t.Logf("%-9s %-16s depth %-2d %-24s %8.0f %s, %.2f × QEMU's best, %.2f × bare", cache, f.what, f.depth, m.name, r, f.unit, r/best, r/median("bare"))
				}
			}
		}
	}
}
