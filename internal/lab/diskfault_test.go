package lab

import (
	"strings"
	"testing"
	"time"
)

// diskFault is a fault of the host's beneath a running guest's disk.
type diskFault struct{ name, script string }

// diskFaults use `durable watch` in the guest, which prints errno for writes, reads and
// flushes. Bash waits for each state: 5 is EIO, 1 or 9 a write to a disk that is read-only.
var diskFaults = []diskFault{
	{
		// A sparse image grows until there is no room, and goes on when there is.
		"full", `mkdir small
mount -t tmpfs -o size=16m small small
truncate -s 1G small/disk.raw
guest small/disk.raw
state write 0 read 0 flush 0
state write 5 read 0 flush 0
mount -o remount,size=1g small
state write 0 read 0 flush 0
`,
	},
	{
		// Reads only: a write behind the end would make the file longer again.
		"shrinks", `truncate -s 64M disk.raw
guest disk.raw,ro
state write [19] read 0 flush 0
truncate -s 4096 disk.raw
state write [19] read 5 flush 0
truncate -s 64M disk.raw
state write [19] read 0 flush 0
`,
	},
	{
		// A device that fails. Its flushes have nothing to write, and succeed.
		"EIO", `device
guest /dev/mapper/bad,cache=none
state write 0 read 0 flush 0
table error
state write 5 read 5 flush 0
table linear /dev/loop0 0
state write 0 read 0 flush 0
`,
	},
	{
		// Behind a page cache the flush comes to know. Nobody knows what is on the disk then, so
		// that flushes fail ever after.
		"EIO behind the page cache", `device
guest /dev/mapper/bad
state write 0 read 0 flush 0
table error
state write . read . flush 5
table linear /dev/loop0 0
state write 0 read 0 flush 5
`,
	},
	{
		// A disk's blocks larger than the guest's, and a file system without direct I/O.
		"direct I/O that cannot work", `truncate -s 64M disk.raw
losetup -b 4096 /dev/loop0 disk.raw || { echo "no losetup"; exit 1; }
uvm run kernel --disk /dev/loop0,cache=none 2>&1 | grep 'disk "vda": /dev/loop0: open: direct I/O needs blocks of 4096 bytes there, and the guest.s have 512: use cache=writeback instead of cache=none'
mkdir small
mount -t tmpfs small small
truncate -s 1M small/disk.raw
uvm run kernel --disk small/disk.raw,cache=none 2>&1 | grep 'this file system has no direct I/O: use cache=writeback instead of cache=none'
`,
	},
}

// diskFaultPrologue has the words of the scripts.
const diskFaultPrologue = `mount -t devtmpfs dev /dev 2>/dev/null || true
grep -q " /mnt " /proc/mounts || { mkdir -p /mnt; mount -t ext4 /dev/vda /mnt; }
cd $(mktemp -d /mnt/XXXXXX)
ln -s /vm/kernel /vm/initrd .
guest() {
	uvm run kernel -m 64M --initrd initrd --disk "$1" --cmdline quiet >out 2>err &
	vm=$!
}
state() {
	for i in $(seq 400); do
		tr -d '\r' <out | grep ^state | tail -n 1 | grep -q "^state $*\$" && { echo "$*"; return; }
		kill -0 $vm || break
		sleep 0.1
	done
	echo "NOT: $*"
	cat out err
	exit 1
}
device() {
	truncate -s 64M disk.raw
	losetup /dev/loop0 disk.raw
	dmsetup create bad --table "0 131072 linear /dev/loop0 0"
	dmsetup mknodes
}
table() {
	dmsetup suspend --noflush bad
	dmsetup reload bad --table "0 131072 $*"
	dmsetup resume bad
}
finish() {
	[ -z "$vm" ] || { kill -9 $vm; wait $vm || true; }
	dmsetup remove bad 2>/dev/null || true
	losetup -d /dev/loop0 2>/dev/null || true
	umount small 2>/dev/null || true
}
trap finish EXIT
`

// TestDiskFaults has the host's side of a disk fail and mended again under a Linux guest, which
// sees errors, and lives on, as does uvm.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	d := newDurable(t, "durable watch /dev/vda\n")
	var jobs []Job
	for _, f := range diskFaults {
		jobs = append(jobs, Job{
			Name: f.name, Dir: "/vm", Bound: 5 * time.Minute, Argv: []string{"bash", "-ec", diskFaultPrologue + f.script + "echo through\n"},
			Check: func(t *testing.T, r *Result) {
				t.Log(r.Stdout)
				if r.Status != 0 || !strings.HasSuffix(r.Stdout, "through\n") {
					t.Errorf("status %d; want 0\nstdout: %s\nstderr: %s", r.Status, r.Stdout, r.Stderr)
				}
			},
		})
	}
	Run(t, Options{Files: d.files, Disks: []Disk{{Path: d.path("lab.img")}}, Tools: []string{"bash", "dmsetup", "losetup"}, Modules: []string{"loop", "dm-mod"}}, jobs...)
}
