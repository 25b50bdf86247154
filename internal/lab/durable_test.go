package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/lab/wire"
)

// durable is what the tests of durability share: a Linux guest that writes
// (testdata/durable.c) to an ext4 file system of its own, which is an image in an ext4 file
// system on the lab's disk.
type durable struct {
	dir     string // with program, guest.img, lab.img
	program string
	files   map[string]string
}

// crashes is how often a test crashes its machine: `make -C bench durability` has more.
func crashes(t *testing.T, name string, few int) int {
	n, err := strconv.Atoi(envOr(name, strconv.Itoa(few)))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func envOr(name, value string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return value
}

// writes is the script of a guest that writes to its disk's file system.
const writes = "mkdir -p /disk\nmount -t ext4 /dev/vda /disk\ndurable write /disk $salt\n"

func newDurable(t *testing.T, init string) *durable {
	Require(t)
	dir := t.TempDir()
	d := &durable{dir: dir, program: filepath.Join(dir, "tree/bin/durable")}
	if err := os.MkdirAll(filepath.Dir(d.program), 0o755); err != nil {
		t.Fatal(err)
	}
	d.must(t, "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", d.program, "testdata/durable.c")
	initrd := filepath.Join(dir, "initrd")
	g := LinuxGuest{Init: init, Tree: filepath.Join(dir, "tree")}
	if err := g.Initramfs(initrd); err != nil {
		t.Fatal(err)
	}
	kernel, err := LinuxKernel("lupine-base")
	if err != nil {
		t.Fatal(err)
	}
	d.files = map[string]string{"/vm/kernel": kernel, "/vm/initrd": initrd, "/usr/bin/durable": d.program}
	if err := os.Mkdir(filepath.Join(dir, "disk"), 0o755); err != nil {
		t.Fatal(err)
	}
	d.must(t, "mke2fs", "-q", "-t", "ext4", filepath.Join(dir, "disk/guest.img"), "48M")
	d.must(t, "mke2fs", "-q", "-t", "ext4", "-d", filepath.Join(dir, "disk"), d.path("lab.img"), "128M")
	return d
}

func (d *durable) path(name string) string { return filepath.Join(d.dir, name) }

func (d *durable) must(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}

// guest is the command of the lab that runs the writer.
const durableGuest = `uvm run kernel -m 64M --initrd initrd --disk "/mnt/guest.img,cache=$CACHE" --cmdline "quiet salt=$SALT"`

// powerOff has the guest write, kills the lab's QEMU at a moment of rng's choice, and says
// what is lost: "" for nothing.
func (d *durable) powerOff(t *testing.T, rng *rand.Rand, salt int, cache string) (lost, safe string, hung bool) {
	disk := d.path("run.img")
	d.must(t, "cp", "--sparse=always", d.path("lab.img"), disk)
	s, err := boot(t, Options{Files: d.files, Disks: []Disk{{Path: disk, Cache: "none"}}}, []Job{{
		Name: "write", Dir: "/vm", Bound: 5 * time.Minute, Env: []string{"CACHE=" + cache, fmt.Sprint("SALT=", salt)},
		Argv: []string{"sh", "-ec", "mkdir /mnt\nmount -t ext4 /dev/vda /mnt\nexec " + durableGuest},
	}}, runPattern())
	if err != nil {
		t.Fatal(err)
	}
	defer s.end(t)
	var out strings.Builder
	acks, after := 0, 1+rng.IntN(120)
	pause := time.Duration(rng.Int64N(int64(30 * time.Millisecond)))
	for deadline := time.Now().Add(2 * time.Minute); acks < after; {
		e, err := s.m.next(deadline, 2*time.Minute)
		if err != nil && !errors.Is(err, errEnded) { // the lab's emulation, see docs/testing.md
			t.Logf("HUNG after %d lines, with cache=%s", acks, cache)
			return "", "", true
		} else if err != nil || e.Event == wire.Exit {
			t.Fatalf("the guest ended before it was stopped: %v\n%s", s.m.describe(err), &out)
		}
		if e.Event == wire.Output {
			out.Write(e.Bytes())
			acks = strings.Count(out.String(), "\n")
		}
	}
	time.Sleep(pause)
	s.m.cancel() // SIGKILL
	for e := range s.m.events {
		if e.Event == wire.Output {
			out.Write(e.Bytes())
		}
	}
	if err := os.WriteFile(d.path("out"), []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	guest, tree := d.path("run-guest.img"), d.path("run-tree")
	os.RemoveAll(tree)
	d.must(t, "mkdir", tree)
	script := fmt.Sprintf(durableCheck, disk, guest, tree, d.path("out"), salt, d.program)
	said, err := exec.Command("bash", "-c", script).CombinedOutput()
	safe = string(durableSafe.Find(said))
	if err != nil || safe == "" {
		return fmt.Sprintf("%v\n%s", err, said), safe, false
	}
	return "", safe, false
}

var durableSafe = regexp.MustCompile(`safe: .*`)

// fsck replays a journal as a mount does, and wants nothing else to be wrong.
const fsck = `fsck() { e2fsck -p "$1" >/dev/null || [ $? = 1 ] || { echo "$1: e2fsck -p: $?"; return 1; }; e2fsck -fn "$1" >fsck.out 2>&1 || { cat fsck.out; return 1; }; }
`

// durableCheck looks at both file systems and all records after a loss of power.
const durableCheck = `cd "$(dirname %[1]q)"
` + fsck + `fsck %[1]q || exit
debugfs -R 'dump guest.img %[2]s' %[1]q 2>/dev/null
fsck %[2]q || exit
debugfs -R 'rdump / %[3]s' %[2]q 2>/dev/null
%[6]q check %[3]q %[5]d %[4]q`

// TestPowerOff cuts the lab's power (its QEMU gets SIGKILL, and its disk's image has what
// the lab has handed to the disk) in the middle of a guest's writes: both file systems have
// to be sound, and all records to be there that the guest was told are safe. Half of the
// runs use the page cache, half direct I/O. With cache=unsafe records have to be missing:
// else the test would see nothing.
func TestPowerOff(t *testing.T) {
	d := newDurable(t, writes)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	n, clean, hung := crashes(t, "UVM_POWEROFFS", 3), 0, 0
	for i := 0; i < n; i++ {
		cache := []string{"writeback", "none"}[i%2]
		lost, safe, again := d.powerOff(t, rng, i, cache)
		if again {
			if i--; hung > n/20 {
				t.Fatalf("the guest hung %d times", hung+1)
			}
			hung++
			continue
		}
		t.Logf("%d, cache=%s: %s", i, cache, safe)
		if lost != "" {
			t.Errorf("power-off %d with cache=%s: %s", i, cache, lost)
			d.must(t, "cp", "--sparse=always", d.path("run.img"), filepath.Join(os.TempDir(), fmt.Sprintf("uvm-lost-%d.img", i)))
			continue
		}
		clean++
	}
	t.Logf("%d of %d power-offs: both file systems clean, every record there", clean, n)
	for i := range 3 {
		if lost, safe, _ := d.powerOff(t, rng, i, "unsafe"); lost != "" {
			t.Logf("with cache=unsafe, as it should be: %s: %.300s …", safe, lost)
			return
		}
	}
	t.Error("three power-offs with cache=unsafe lost nothing; want the test to see that flushes are not done")
}

// monitorKill kills uvm N times, at times that bash chooses.
const monitorKill = fsck + `mkdir -p /mnt /tree
mount -t ext4 /dev/vda /mnt
RANDOM=$SEED
for i in $(seq $N); do
	case $((i % 3)) in 0) CACHE=writeback;; 1) CACHE=none;; 2) CACHE=unsafe;; esac
	SALT=$i
	` + durableGuest + ` >out 2>err &
	acks=$((1 + RANDOM % 60))
	SECONDS=0
	until [ $(wc -l <out) -ge $acks ]; do
		kill -0 $! || { cat out err; exit 1; }
		[ $SECONDS -lt 120 ] || { echo "HUNG $i after $(wc -l <out) lines"; [ $((++hung)) -lt $((2 + N / 20)) ] || exit 1; break; }
		sleep 0.02
	done
	sleep 0.$((RANDOM % 10))$((RANDOM % 10))
	kill -9 $!
	wait $! || true
	flock -w 20 /mnt/guest.img true || { echo "$i: the image is still locked"; exit 1; }
	fsck /mnt/guest.img || { echo "BROKEN $i $CACHE"; exit 1; }
	rm -rf /tree/*
	debugfs -R 'rdump / /tree' /mnt/guest.img 2>/dev/null
	durable check /tree $i out || { echo "LOST $i $CACHE"; cat err; exit 1; }
done
echo all
`

// TestMonitorKill kills uvm in the middle of a guest's writes. What it had written is in the
// host's page cache, also with cache=unsafe.
func TestMonitorKill(t *testing.T) {
	d := newDurable(t, writes)
	seed := time.Now().UnixNano() & 0x7fff
	n := crashes(t, "UVM_KILLS", 10)
	Run(t, Options{Files: d.files, Tools: []string{"bash", "e2fsck", "debugfs", "flock"}, Disks: []Disk{{Path: d.path("lab.img")}}}, Job{
		Name: "kill", Dir: "/vm", Bound: time.Duration(n)*30*time.Second + time.Minute, Argv: []string{"bash", "-c", monitorKill},
		Env: []string{fmt.Sprint("N=", n), fmt.Sprint("SEED=", seed)},
		Check: func(t *testing.T, r *Result) {
			t.Logf("seed %d\n%s", seed, r.Stdout)
			if got := len(durableSafe.FindAllString(r.Stdout, -1)); r.Status != 0 || got != n || !strings.HasSuffix(r.Stdout, "\nall\n") {
				t.Errorf("status %d, %d kills survived; want 0 and %d\n%s", r.Status, got, n, r.Stderr)
			}
		},
	})
}
