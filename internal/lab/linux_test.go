package lab

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// linuxCase is a Linux guest under uvm in the lab.
type linuxCase struct {
	name string
	init string // process 1
	peer bool   // the guest has peer
	disk bool   // it lies on an ext4 disk, /vm/NAME.ext4, instead of in an initramfs, /vm/NAME.cpio
	// script runs it, in bash's -e mode with /vm the working directory. $BASE
	// and $GENERAL are lupine kernels, $DEBIAN Debian's cloud kernel, and
	// $GUEST the words that give the guest 256 MiB and its root.
	script  string
	want    []string // patterns that stdout matches
	results []string
}

// linuxCases are what a stock or specialised Linux does on uvm's PC-like machine.
var linuxCases = []linuxCase{
	{
		// The bzImage of a distribution, and the console in both directions.
		name: "shell", init: "echo shell is up\nexec setsid cttyhack sh\n",
		script: `rm -f in
mkfifo in
uvm run $DEBIAN $GUEST <in >out &
exec 3>in
until grep -q 'shell is up' out; do sleep 0.2; done
echo 'echo answer=$((6*7)); poweroff -f' >&3
wait $!
cat out`,
		want: []string{`answer=42`},
	},
	{
		name: "poweroff", init: "echo going\npoweroff -f\n",
		script: `uvm run $DEBIAN $GUEST`, want: []string{`going`},
	},
	{
		// A kernel without ACPI.
		name: "poweroff by port", init: "echo going\nuvm-mark --poweroff\nsleep 100\n",
		script: `uvm run $BASE $GUEST`, want: []string{`going`},
	},
	{
		name: "reboot", init: "echo going\nreboot -f\n",
		script: `uvm run $BASE $GUEST`, want: []string{`Linux version 6\.1\.\S*-lupine-base`, `going`},
	},
	{
		name: "linux protocol", init: "echo going\nreboot -f\n",
		script: `uvm run $BASE $GUEST --boot linux`, want: []string{`going`},
	},
	{
		name: "panic", init: "exit 3\n",
		script: `uvm run $BASE $GUEST`, want: []string{`Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300`},
	},
	{
		name: "words", init: "echo words: $words $*\nreboot -f\n",
		script: `uvm run $BASE $GUEST --cmdline 'words=here -- and there'`, want: []string{`words: here and there`},
	},
	{
		name: "marks", init: "uvm-mark 73\nuvm-mark 255\nreboot -f\n",
		script:  `uvm run $BASE $GUEST --boot-report report.json >/dev/null`,
		results: []string{"/vm/report.json"},
	},
	{
		name: "rng", init: "echo got $(head -c 64 /dev/hwrng | wc -c)\nreboot -f\n",
		script: `uvm run $BASE $GUEST --rng`, want: []string{`got 64`},
	},
	{
		name: "two CPUs", init: `echo online $(cat /sys/devices/system/cpu/online)
for n in 0 1; do taskset $((n + 1)) sh -c 'read -r s </proc/self/stat; set -- $s; echo ran on ${39}'; done
reboot -f
`,
		script: `uvm run $GENERAL $GUEST -c 2`, want: []string{`online 0-1`, `ran on 0`, `ran on 1`},
	},
	{
		// The first boot writes, the second compares. The disk is clean in between
		// and after.
		name: "disk", disk: true, init: `if [ -e /sum ]; then
	sha256sum -c /sum
else
	dd if=/dev/urandom of=/data bs=64k count=64 2>/dev/null
	sha256sum /data >/sum
	echo first boot
fi
sync
mount -o remount,ro /dev/vda /
reboot -f
`,
		script: `uvm run $BASE $GUEST
e2fsck -fn disk.ext4
uvm run $BASE $GUEST
e2fsck -fn disk.ext4`,
		want: []string{`first boot(?s:.*)/data: OK`},
	},
	{
		name: "network", peer: true, init: `peer tcp-sink 10.0.0.2:5001
peer tcp-source 10.0.0.1:5002 10000000
features=$(cat /sys/class/net/eth0/device/features)
echo features ${features:0:17}
cd /sys/class/net/eth0/statistics
for d in rx tx; do [ $(($(cat ${d}_bytes) / $(cat ${d}_packets))) -gt 1514 ] && echo $d frames are long; done
reboot -f
`,
		script: `ip netns add lab
inside() { ip netns exec lab "$@"; }
inside ip tuntap add tap0 mode tap
inside ip addr add 10.0.0.1/24 dev tap0
inside ip link set tap0 up
inside uvm run $GENERAL $GUEST --net tap0 --cmdline ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off >out &
guest=$!
inside ./peer tcp-sink 10.0.0.1:5002 >sink &
sink=$!
until inside ping -c 1 -W 1 10.0.0.2 >/dev/null; do sleep 0.2; done
inside ping -c 3 -W 5 10.0.0.2
inside ./peer tcp-source 10.0.0.2:5001 10000000
wait $sink
wait $guest
cat out sink
ip netns del lab`,
		want: []string{
			` 0% packet loss`, `took 10000000 bytes, sha256 ` + tenMB, `sent 10000000 bytes, sha256 ` + tenMB,
			`(?s:took 10000000 bytes.*){2}`, `(?s:sent 10000000 bytes.*){2}`,
			// CSUM, GUEST_CSUM, MTU, MAC, GUEST_TSO4, TSO6 and ECN, HOST_ the same,
			// MRG_RXBUF, STATUS; and the average frame is longer than the MTU.
			`features 11010101110111011`, `rx frames are long`, `tx frames are long`,
		},
	},
	{
		// A disk and a network card with a rate: what is more than the burst takes its time,
		// in hundredths of a second of the guest's clock, and nothing is lost.
		name: "limits", peer: true, init: `now() { read -r t _ </proc/uptime; echo ${t%.*}${t#*.}; }
took() { start=$(now); "$@"; echo "took $(($(now) - start)) for $*"; }
took dd if=/dev/vda of=/dev/null bs=64k
took sh -c 'for i in 3 1 2 0; do dd if=/dev/vdb of=/dev/null bs=64k skip=$((i * 2)) count=1; done' 2>/dev/null
past() { until [ $(cat /sys/class/net/eth0/statistics/$1) -gt $2 ]; do :; done; }
peer tcp-source 10.0.0.1:5002 500000 &
past tx_bytes 100000
took past tx_bytes 480000
wait $!
peer tcp-sink 10.0.0.2:5001 &
past rx_bytes 100000
took past rx_bytes 480000
wait $!
reboot -f
`,
		script: `truncate -s 2M bps.raw
truncate -s 512K iops.raw
ip netns add limits
inside() { ip netns exec limits "$@"; }
inside ip tuntap add tap0 mode tap
inside ip addr add 10.0.0.1/24 dev tap0
inside ip link set tap0 up
inside ./peer tcp-sink 10.0.0.1:5002 >sink &
sink=$!
inside uvm run $GENERAL $GUEST --disk bps.raw,bps=2M,burst=500ms --disk iops.raw,iops=20,burst=1ms \
	--net tap0,bps=1M,burst=10ms --cmdline ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off &
guest=$!
wait $sink
until inside ./peer tcp-source 10.0.0.2:5001 500000 2>/dev/null; do sleep 0.2; done
wait $guest
cat sink
ip netns del limits`,
		want: []string{
			// A little less than the 50, 15, 36 and 36 that the rates say: by an operation.
			`took ([4-9]\d|\d{3,}) for dd`, `took ([2-9]\d|1[4-9]|\d{3,}) for sh`,
			`took ([2-9]\d|\d{3,}) for past tx_bytes`, `took ([2-9]\d|\d{3,}) for past rx_bytes`, `(?s:took 500000 bytes.*){2}`,
		},
	},
	{
		name: "vsock", peer: true, init: `peer vsock-listen 5000
peer vsock-dial 2 5001 1000000
reboot -f
`,
		script: `rm -f v v_5001
./peer unix-listen v_5001 >echo &
echo=$!
uvm run $GENERAL $GUEST --vsock v >out &
guest=$!
./peer unix-dial v 5000 1000000
wait $echo
wait $guest
cat out echo`,
		want: []string{`(?s:exchanged 1000000 bytes.*){2}`, `(?s:echoed 1000000 bytes.*){2}`},
	},
}

// tenMB is the digest of ten million bytes of peer's.
const tenMB = "844c1539dbe98a88ee31d036c9dbbc8d0f36f1c7e83fc4b367fd1ace73a1e6a1"

// TestLinux boots Linux on uvm: Debian's kernel and those of guests/lupine.
func TestLinux(t *testing.T) {
	t.Parallel()
	Require(t)
	cases := slices.Concat(linuxCases, faultCases)
	files, err := linuxFiles(t.TempDir(), cases)
	if err != nil {
		t.Fatal(err)
	}
	var jobs []Job
	for _, c := range cases {
		jobs = append(jobs, c.job())
	}
	Run(t, Options{Memory: 2 << 30, Files: files, Tools: []string{"bash", "ip", "e2fsck"}}, jobs...)
}

// linuxFiles are the kernels, and the guests, which it makes in dir.
func linuxFiles(dir string, cases []linuxCase) (map[string]string, error) {
	files := map[string]string{}
	parts, err := FindParts()
	if err != nil {
		return nil, err
	}
	defer parts.Close()
	files["/vm/debian"] = parts.Kernel
	for _, name := range []string{"lupine-base", "lupine-general"} {
		if files["/vm/"+name], err = LinuxKernel(name); err != nil {
			return nil, err
		}
	}
	for _, c := range cases {
		g := LinuxGuest{Init: c.init, Peer: c.peer}
		name := strings.ReplaceAll(c.name, " ", "-")
		if c.disk {
			name += ".ext4"
			err = g.Ext4(filepath.Join(dir, name), 32<<20)
		} else {
			name += ".cpio"
			err = g.Initramfs(filepath.Join(dir, name))
		}
		if err != nil {
			return nil, err
		}
		files["/vm/"+name] = filepath.Join(dir, name)
	}
	files["/vm/peer"] = filepath.Join(dir, "peer")
	return files, WritePeer(files["/vm/peer"])
}

func (c *linuxCase) job() Job {
	guest := "-m 256M --initrd " + strings.ReplaceAll(c.name, " ", "-") + ".cpio"
	if c.disk {
		guest = "-m 256M --disk " + c.name + ".ext4"
	}
	return Job{
		Name: c.name, Dir: "/vm", Argv: []string{"bash", "-ec", c.script}, Bound: 90 * time.Second, Results: c.results,
		// The disk is not what it was, nor is the network.
		Again: !c.disk && c.name != "network" && c.name != "limits",
		Env:   []string{"BASE=lupine-base", "GENERAL=lupine-general", "DEBIAN=debian", "GUEST=" + guest, "RESETS=" + envOr("UVM_LAB_RESETS", "15")},
		Check: func(t *testing.T, r *Result) {
			ok := r.Status == 0
			for _, p := range c.want {
				if !regexp.MustCompile(p).MatchString(r.Stdout) {
					t.Errorf("stdout has no %q", p)
					ok = false
				}
			}
			if c.name == "marks" {
				checkMarks(t, r.Files["/vm/report.json"])
			}
			if !ok || t.Failed() {
				t.Errorf("status %d; want 0\nstdout: %s\nstderr: %s", r.Status, r.Stdout, r.Stderr)
			}
			t.Logf("%.1f s in the lab", r.Elapsed.Seconds())
		},
	}
}

// checkMarks wants the two marks of the guest's init in the boot report, after
// the monitor's first entry and in their order.
func checkMarks(t *testing.T, report []byte) {
	t.Helper()
	var r struct {
		Marks []struct {
			Source, Label string
			Value         *int
			Since         int64 `json:"since_first_entry_ns"`
		}
	}
	if err := json.Unmarshal(report, &r); err != nil {
		t.Errorf("the boot report: %v\n%s", err, report)
		return
	}
	var got []int
	last := int64(0)
	for _, m := range r.Marks {
		if m.Source != "guest" || m.Value == nil {
			continue
		}
		got = append(got, *m.Value)
		if m.Since <= last {
			t.Errorf("mark %d is %d ns after the first entry; want more than %d", *m.Value, m.Since, last)
		}
		last = m.Since
		t.Logf("mark %d: %.1f ms after the first entry", *m.Value, float64(m.Since)/1e6)
	}
	if !slices.Equal(got, []int{73, 255}) {
		t.Errorf("marks of the guest = %v; want [73 255]", got)
	}
}
