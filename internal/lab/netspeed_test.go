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

// netMachines are the monitors of TestNetSpeed, each with its words in the shell. The
// QEMU has what its documentation recommends for microvm, virtio 1 and the same
// offloads as uvm; the other one also has the kernel do the copying.
var netMachines = []struct{ name, command string }{
	{"uvm", `uvm run kernel -m 256M --initrd initrd --net tap0 --cmdline "$WORDS"`},
	{"qemu", netQEMU + ",vhost=off"},
	{"qemu-vhost", netQEMU + ",vhost=on"},
}

const netQEMU = `qemu-system-x86_64 -M microvm,x-option-roms=off,acpi=off,rtc=off -accel kvm -cpu host -m 256M -nodefaults -no-user-config` +
	` -display none -no-reboot -serial stdio -kernel kernel -initrd initrd -append "console=ttyS0 reboot=t panic=-1 $WORDS"` +
	` -global virtio-mmio.force-legacy=false -device virtio-net-device,netdev=n -netdev tap,id=n,ifname=tap0,script=no,downscript=no,vnet_hdr=on`

// netFigures are what netspeed measures.
var netFigures = []struct{ what, name, unit string }{
	{"s", "TCP from the guest", "MB/s"},
	{"r", "TCP to the guest", "MB/s"},
	{"S", "64-byte UDP frames from the guest", "1000/s"},
	{"R", "64-byte UDP frames to the guest", "1000/s"},
}

// TestNetSpeed measures uvm's virtio-net against that of QEMU's microvm by turns, in
// one boot of the lab: the same kernel, the same TAP, a fresh VM each time. `make -C
// bench net` runs it; UVM_ROUNDS is the number of turns, UVM_MS how long each
// transfer takes, and UVM_JSON a file for the raw figures. With UVM_ICOUNT=1 time follows instructions.
func TestNetSpeed(t *testing.T) {
	dir := t.TempDir()
	kernel, err := LinuxKernel("lupine-general")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tree/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	peer := filepath.Join(dir, "tree/bin/netspeed")
	if out, err := exec.Command("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", peer, "testdata/netspeed.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	initrd := filepath.Join(dir, "initrd")
	g := LinuxGuest{Init: "netspeed guest\nreboot -f\n", Tree: filepath.Join(dir, "tree")}
	if err := g.Initramfs(initrd); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/vm/kernel": kernel, "/vm/initrd": initrd, "/vm/netspeed": peer}
	for _, f := range qemuFiles {
		files[qemuShare+"/"+f] = filepath.Join(qemuShare, f)
	}
	script := `mount -t debugfs debugfs /sys/kernel/debug || true
ip tuntap add tap0 mode tap
ip addr add 10.0.0.1/24 dev tap0
ip link set tap0 up
export WORDS="quiet ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off"
for turn in $(seq $ROUNDS); do
`
	for _, m := range netMachines {
		script += fmt.Sprintf("%s >console 2>&1 &\necho machine %s\n./netspeed host 10.0.0.2 $MS || { cat console; kill $!; }\nwait $!\n", m.command, m.name)
	}
	env := []string{"ROUNDS=" + envOr("UVM_ROUNDS", "5"), "MS=" + envOr("UVM_MS", "2000")}
	Run(t, Options{ICount: os.Getenv("UVM_ICOUNT") == "1", Memory: 3 << 30, Files: files, Tools: []string{"qemu-system-x86_64", "bash", "ip"}, Modules: []string{"vhost_net"}}, Job{
		Name: "network", Dir: "/vm", Bound: 20 * time.Minute, Env: env,
		Argv: []string{"bash", "-ec", script + "done\n"},
		Check: func(t *testing.T, r *Result) {
			t.Logf("raw figures:\n%s", r.Stdout)
			if r.Status != 0 {
				t.Errorf("status %d\n%s", r.Status, r.Stderr)
			}
			netReport(t, r.Stdout)
		},
	})
}

// netReport prints medians; and of what each is of QEMU's in the same turn, because the
// machine below the lab is not as fast in one minute as in the next.
func netReport(t *testing.T, out string) {
	type figure struct {
		Machine       string  `json:"machine"`
		What          string  `json:"what"`
		N             uint64  `json:"n"` // bytes or frames
		Seconds       float64 `json:"seconds"`
		Exits         float64 `json:"exits"`
		HaltExits     float64 `json:"halt_exits"`
		IRQInjections float64 `json:"irq_injections"`
	}
	var raw []figure
	rates, exits, irqs := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	machine := ""
	for _, line := range strings.Split(out, "\n") {
		if m, ok := strings.CutPrefix(line, "machine "); ok {
			machine = m
			continue
		}
		f := figure{Machine: machine}
		if json.Unmarshal([]byte(line), &f) != nil || f.Seconds == 0 || f.N == 0 {
			continue
		}
		raw = append(raw, f)
		unit := float64(f.N) / 1e6 // megabytes
		if f.What == "S" || f.What == "R" {
			unit = float64(f.N) / 1e3
		}
		key := machine + f.What
		rates[key] = append(rates[key], unit/f.Seconds)
		exits[key] = append(exits[key], f.Exits/unit)
		irqs[key] = append(irqs[key], f.IRQInjections/unit)
	}
	writeRaw(t, raw)
	median := func(x []float64) float64 {
		if len(x) == 0 {
			t.Error("a figure is missing")
			return 0
		}
		slices.Sort(x)
		return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
	}
	for _, f := range netFigures {
		base := slices.Clone(rates["qemu"+f.what]) // in the order of the turns, which median changes
		for _, m := range netMachines {
			key := m.name + f.what
			var ratios []float64
			for i, r := range rates[key][:min(len(base), len(rates[key]))] {
				ratios = append(ratios, r/base[i])
			}
			t.Logf("%-34s %-11s %8.1f %s, %.2f × qemu; for each MB or 1000 frames %.0f exits, %.0f interrupts",
				f.name, m.name, median(rates[key]), f.unit, median(ratios), median(exits[key]), median(irqs[key]))
		}
	}
}
