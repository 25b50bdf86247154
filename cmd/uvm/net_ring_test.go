package main

import (
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/vmm"
)

// TestNetRing runs a guest that uses the ring and nothing else where there is one, and ends
// where there is none.
func TestNetRing(t *testing.T) {
	testutil.RequireRoot(t)
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	kernel := netecho(t)
	for _, tt := range []struct {
		env, line string
		there     bool
	}{
		{"", "uvm run --net tap0 --net-ring on K -- --ring", true},
		{"", "uvm run --net tap0 --net-ring=on --ring 0 K -- --ring", true},
		{"", "uvm run --net tap0 --net-ring=off K -- --ring", false},
		{"", "uvm run --net tap0 --net-ring=auto K -- --ring", false}, // it has uvm's note
		{"", "uvm run --net tap0 K -- --ring", false},
		{"on", "solo5-hvt --mem=4 --net:service=tap0 K --ring", true},
		{"on", "solo5-hvt --mem=4 --no-net-ring --net:service=tap0 K --ring", false},
		{"off", "solo5-hvt --mem=4 --net:service=tap0 K --ring", false},
		{"auto", "solo5-hvt --mem=4 --net:service=tap0 K --ring", false},
	} {
		t.Run(tt.env+" "+tt.line, func(t *testing.T) {
			netNS(t)
			ip(t, "tuntap add tap0 mode tap")
			ip(t, "link set tap0 addrgenmode none")
			ip(t, "addr add 10.0.0.1/24 dev tap0")
			ip(t, "link set tap0 up")
			words := strings.Fields(tt.line)
			for i := range words {
				words[i] = strings.Replace(words[i], "K", kernel, 1)
			}
			cmd := program(t, words...)
			cmd.Env = append(cmd.Env, "UVM_NET_RING="+tt.env)
			r := follow(t, cmd)
			if !tt.there {
				r.expect("netecho: the monitor offers no network ring\n")
				if got := r.wait(); got.status != 1 {
					t.Errorf("run = %+v; want status 1", got)
				}
				return
			}
			r.up()
			for _, size := range []string{"0", "1400"} {
				if out, err := exec.Command("ping", "-q", "-c", "100", "-i", "0.005", "-W", "5", "-s", size, "10.0.0.2").CombinedOutput(); err != nil {
					t.Errorf("ping: %v: %s", err, out)
				}
			}
			quit(t, "10.0.0.2")
			wantQuiet(t, r.wait(), 0, "")
		})
	}
}

// TestSetNetRing: who is offered the ring. Whether a processor is to spare changes from
// minute to minute, but not the rest of the rule.
func TestSetNetRing(t *testing.T) {
	nets := []vmm.Net{{TAP: "tap0"}}
	for _, tt := range []struct {
		mode         string
		nets         []vmm.Net
		there, stock bool
	}{
		{"on", nil, true, false}, {"on", nets, true, false}, {"off", nets, false, false},
		{"", nil, false, false}, {"auto", nil, false, false}, {"", nets, spareCPU(), spareCPU()}, {"auto", nets, spareCPU(), spareCPU()},
	} {
		cfg := vmm.Config{Nets: tt.nets}
		if err := setNetRing(tt.mode, &cfg); err != nil || (cfg.NetRing != nil) != tt.there || cfg.NetRingStock != tt.stock {
			t.Errorf("setNetRing(%q) with %d nets = %v, %v, %v; want a ring: %v, for stock guests: %v",
				tt.mode, len(tt.nets), cfg.NetRing, cfg.NetRingStock, err, tt.there, tt.stock)
		}
	}
}

// TestSpareCPU: a process with one processor has none to spare, and one with very many has.
func TestSpareCPU(t *testing.T) {
	defer func(set unix.CPUSet) { affinity = set }(affinity)
	for n, want := range map[int]bool{0: false, 1: false, 1024: true} {
		affinity.Zero()
		for i := range n {
			affinity.Set(i)
		}
		if got := spareCPU(); got != want {
			t.Errorf("spareCPU() of a process with %d processors = %v; want %v", n, got, want)
		}
	}
}

// TestNetRingWords: what --net-ring and the environment may say.
func TestNetRingWords(t *testing.T) {
	const want = `network ring "yes": want on, off or auto`
	if got := uvm(t, "run", "k", "--net-ring", "yes"); got != (ended{status: exitUsage, stderr: "uvm: " + want + "\n"}) {
		t.Errorf("uvm run --net-ring yes = %+v; want status %d and %q", got, exitUsage, want)
	}
	cmd := program(t, solo5Name, hello(t))
	cmd.Env = append(cmd.Env, "UVM_NET_RING=yes")
	if got := run(t, cmd); got.status != 1 || got.stderr != "solo5-hvt: "+want+"\n" {
		t.Errorf("solo5-hvt with UVM_NET_RING=yes = %+v; want status 1 and %q", got, want)
	}
}
