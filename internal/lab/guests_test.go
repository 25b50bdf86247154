package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestGuests runs every sample guest in both rings, where the local KVM may know
// neither SSE nor a real exception in ring 0.
func TestGuests(t *testing.T) {
	t.Parallel()
	var jobs []Job
	add := func(name string, status int, stdout, stderr string, argv ...string) {
		jobs = append(jobs, Job{Name: name, Argv: argv, Dir: srcDir + "/bin/guests", Check: func(t *testing.T, r *Result) {
			if r.Status != status || !strings.Contains(r.Stdout, stdout) || (stderr == "") != (r.Stderr == "") || !strings.Contains(r.Stderr, stderr) {
				t.Errorf("%q = status %d, stdout %q, stderr %q; want status %d with %q and %q", argv, r.Status, r.Stdout, r.Stderr, status, stdout, stderr)
			}
		}})
	}
	for _, ring := range []string{"0", "sealed"} {
		guest := func(name string, status int, stdout, stderr string, args ...string) {
			add(name+"/"+ring, status, stdout, stderr,
				append([]string{"uvm", "run", "--ring", ring, "-m", "4M", "--timeout", "20s", name + ".hvt", "--"}, args...)...)
		}
		guest("hello", 0, "Hello from uvm", "")
		guest("args", 44, "argc=2\n", "", "--exit", "300")
		guest("clock", 0, "SUCCESS", "")
		guest("marks", 0, "", "")
		// The checksums are those of the same loops compiled for the host.
		guest("compute", 0, "checksum=0xbbd20ede3b0736d2", "", "int")
		add("compute sse/"+ring, 0, "checksum=0x0039cc51e5f69266", "", "uvm", "run", "--ring", ring, "compute.hvt", "--", "sse")
		add("compute sse in solo5-hvt/"+ring, 0, "checksum=0x0039cc51e5f69266", "",
			"env", "UVM_RING="+ring, "solo5-hvt", "compute.hvt", "sse")
		add("blkcheck/"+ring, 0, "SUCCESS", "", "sh", "-c",
			"truncate -s 1M /tmp/disk && exec uvm run --ring "+ring+" blkcheck.hvt --disk /tmp/disk")
		add("spin/"+ring, 124, "", "did not end in time", "uvm", "run", "--ring", ring, "--timeout", "300ms", "spin.hvt")
	}

	const (
		triple    = "guest fault: triple fault"
		exception = "guest fault: exception without a handler"
		noPage    = "guest fault: host/guest translation fault"
		port      = "guest fault: invalid port access"
		pointer   = "guest fault: invalid guest pointer"
		call      = "guest fault: invalid hypercall"
		halt      = "guest fault: HLT without an interrupt"
		trap      = "the guest reports a trap: rip=0x"
		late      = "did not end in time"
	)
	for _, f := range []struct {
		name         string
		status       int
		ring0, seals string // stderr in either ring
	}{
		{"null", 255, triple, exception}, {"wild-read", 255, triple, exception}, {"wild-write", 255, triple, exception},
		{"write-text", 255, noPage, noPage}, {"write-rodata", 255, noPage, noPage}, {"write-bootinfo", 255, triple, exception},
		{"jump-null", 255, triple, exception}, {"jump-wild", 255, triple, exception}, {"mmio", 255, triple, exception},
		{"pagetable", 255, triple, exception}, {"stack-overflow", 255, noPage, noPage},
		{"port", 255, port, port}, {"in", 255, port, port}, {"outb", 255, port, port}, {"outw", 255, port, port},
		{"hypercall", 255, port, port}, {"hypercall0", 255, call, call}, {"hypercall-block", 255, call, call},
		{"badptr", 255, pointer, pointer}, {"badptr-wrap", 255, pointer, pointer}, {"badlen", 255, pointer, pointer},
		{"edge-bad", 255, pointer, pointer}, {"badstruct", 255, pointer, pointer}, {"result-in-text", 255, pointer, pointer},
		{"result-in-bootinfo", 255, pointer, pointer}, {"puts-pagetable", 255, pointer, pointer}, {"halt-badcookie", 255, pointer, pointer},
		{"edge-ok", 0, "", ""}, {"abort", 255, "", ""}, {"trap", 255, trap, trap}, {"hlt", 255, halt, halt},
		{"ud2", 255, triple, exception}, {"div", 255, triple, exception}, {"int3", 255, triple, exception}, {"triple", 255, triple, exception},
		{"many-marks", 0, "", ""}, {"flood", 124, late, late}, {"poll-forever", 124, late, late}, {"spin", 124, late, late},
	} {
		for ring, stderr := range map[string]string{"0": f.ring0, "sealed": f.seals} {
			limit := "40s"
			if f.status == 124 {
				limit = "300ms"
			}
			add("faults/"+f.name+"/"+ring, f.status, "", stderr, "uvm", "run", "--ring", ring, "-m", "4M", "--timeout", limit, "faults.hvt", "--", f.name)
		}
	}
	// What ring 0 lets pass and the seal does not.
	for _, name := range []string{"exec-data", "exec-rodata", "exec-stack"} {
		add("faults/"+name+"/0", 3, "NOT CAUGHT", "", "uvm", "run", "--ring", "0", "-m", "4M", "faults.hvt", "--", name)
		add("faults/"+name+"/sealed", 255, "", noPage, "uvm", "run", "-m", "4M", "faults.hvt", "--", name)
	}
	Run(t, Options{}, jobs...)
}

// network is a unikernel on a TAP in a network namespace, as scripts/demo.sh
// makes it. $1 is a flag of uvm's, $2 one of the guest's.
const network = `set -e
ip netns add lab
inside() { ip netns exec lab "$@"; }
inside ip tuntap add tap0 mode tap
inside ip addr add 10.0.0.1/24 dev tap0
inside ip link set tap0 up
inside uvm run bin/guests/netecho.hvt --net tap0 $1 -- --ipv4=10.0.0.2/24 $2 >/tmp/console &
until grep -q ' up,' /tmp/console; do sleep 0.1; done
inside ping -c 2 -W 5 10.0.0.2
inside ping -c 20 -i 0.05 -s 1400 -q 10.0.0.2
inside bash -c 'echo quit >/dev/udp/10.0.0.2/7'
wait $!
ip netns del lab
`

// TestNetwork pings a unikernel and ends it by a datagram: with batches of hypercalls, single
// ones, and the network ring, in either of the processor's rings.
func TestNetwork(t *testing.T) {
	t.Parallel()
	var jobs []Job
	for _, way := range [][2]string{{"", ""}, {"", "--single"}, {"--net-ring=on", "--ring"}, {"--net-ring=on --ring=0", "--ring"}} {
		jobs = append(jobs, Job{Name: "ping " + strings.Join(way[:], " "), Dir: srcDir, Argv: []string{"bash", "-c", network, "network", way[0], way[1]}, Check: func(t *testing.T, r *Result) {
			if r.Status != 0 || strings.Count(r.Stdout, " 0% packet loss") != 2 {
				t.Errorf("status %d, stdout %q, stderr %q; want all pings answered and status 0", r.Status, r.Stdout, r.Stderr)
			}
		}})
	}
	Run(t, Options{Tools: []string{"bash", "ip"}}, jobs...)
}

// TestICount takes the same measurements in two boots: what a guest measures,
// and how long the program around it takes.
func TestICount(t *testing.T) {
	t.Parallel()
	type figures struct {
		guest string
		job   time.Duration
	}
	var boots [2]figures
	for i := range boots {
		t.Run(fmt.Sprint("boot ", i+1), func(t *testing.T) {
			Run(t, Options{ICount: true}, Job{
				Name: "measure", Dir: srcDir + "/bin/guests", Argv: []string{"uvm", "run", "-m", "4M", "compute.hvt", "--", "int", "10000"},
				Check: func(t *testing.T, r *Result) {
					t.Logf("%s%v for all of it", r.Stdout, r.Elapsed)
					if r.Status != 0 || !strings.Contains(r.Stdout, "elapsed_ns=") {
						t.Errorf("status %d, stdout %q, stderr %q; want a measurement", r.Status, r.Stdout, r.Stderr)
					}
					boots[i] = figures{r.Stdout, r.Elapsed}
				},
			})
		})
	}
	if boots[0] != boots[1] {
		t.Errorf("the first boot measured %+v, the second %+v; want the same", boots[0], boots[1])
	}
}

// TestDisk sends a file that is larger than the lab's memory in and out.
func TestDisk(t *testing.T) {
	t.Parallel()
	const memory, size = 256 << 20, 320 << 20
	path := filepath.Join(t.TempDir(), "large,file.raw") // QEMU's options are separated by commas
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	// A block in each MiB, so that the file stays small here; inside, it is
	// read and written as a whole.
	block := func(mib int64, round byte) []byte {
		return bytes.Repeat([]byte{round, byte(mib), byte(mib >> 8), 0x5a}, 1024)
	}
	for mib := range int64(size >> 20) {
		if _, err := f.WriteAt(block(mib, 1), mib<<20); err != nil {
			t.Fatal(err)
		}
	}
	Run(t, Options{Memory: memory, Disks: []Disk{{Path: path}}}, Job{Package: "internal/lab/testdata/inside"})
	got := make([]byte, 4096)
	for mib := range int64(size >> 20) {
		if _, err := f.ReadAt(got, mib<<20); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, block(mib, 2)) {
			t.Fatalf("block at %d MiB = % x…; want % x…", mib, got[:4], block(mib, 2)[:4])
		}
	}
}
