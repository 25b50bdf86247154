package hypercall

import (
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

// TestAllocs pins every call, through the bus as the run loop makes them: none
// costs garbage unless it ends the guest.
func TestAllocs(t *testing.T) {
	r := newRig(t)
	var bus devices.PortBus
	if err := bus.Add(FirstPort, LastPort, r.Table); err != nil {
		t.Fatal(err)
	}
	r.nic.in = make([]byte, 1514)
	r.errs = make([]hostErr, 0, 1000)
	at := func(i int) uint64 { return dataAddr + uint64(i)*64 }
	le.PutUint32(r.eax, 0)
	for i, c := range []struct {
		name string
		call Call
		args []uint64
		nic  syscall.Errno
		disk syscall.Errno
		ret  uint64 // offset of the result, 0 = none
		want int32
	}{
		{name: "walltime", call: Walltime},
		{name: "puts", call: Puts, args: []uint64{textAddr, 100}},
		{name: "poll", call: Poll, args: []uint64{0, 0, dirty}, ret: 16},
		{name: "poll of 1 ns", call: Poll, args: []uint64{1, 0, dirty}, ret: 16},
		{name: "block write", call: BlockWrite, args: []uint64{hDisk, 0, buf, 512, dirty}, ret: 32},
		{name: "block read", call: BlockRead, args: []uint64{hDisk, 0, buf, 512, dirty}, ret: 32},
		{name: "block read past the end", call: BlockRead, args: []uint64{hDisk, 4096, buf, 512, dirty}, ret: 32, want: resultInval},
		{name: "block read that fails", call: BlockRead, args: []uint64{hDisk, 0, buf, 512, dirty}, disk: syscall.EIO, ret: 32, want: resultError},
		{name: "batch", call: Batch, args: []uint64{batchAt, 3, dirty}, ret: 16},
		{name: "batch that fails", call: Batch, args: []uint64{batchAt, 3, dirty}, disk: syscall.EIO, ret: 16, want: resultError},
		{name: "batch too long", call: Batch, args: []uint64{batchAt, 65, dirty}, ret: 16, want: resultInval},
		{name: "net write", call: NetWrite, args: []uint64{hNIC, buf, 1514, dirty}, ret: 24},
		{name: "net write that fails", call: NetWrite, args: []uint64{hNIC, buf, 1514, dirty}, nic: syscall.EIO, ret: 24, want: resultError},
		{name: "net read", call: NetRead, args: []uint64{hNIC, buf, 1514, dirty}, ret: 24},
		{name: "net read of nothing", call: NetRead, args: []uint64{hNIC, buf, 1514, dirty}, nic: syscall.EAGAIN, ret: 24, want: resultAgain},
		{name: "net read with a bad handle", call: NetRead, args: []uint64{hDisk, buf, 1514, dirty}, ret: 24, want: resultInval},
	} {
		r.nic.readErr, r.nic.writeErr, r.disk.err = c.nic, c.nic, c.disk
		r.put(at(i), c.args...)
		r.put(batchAt, hDisk, 0, buf, 512, 0, uint64(BlockRead), hNIC, buf, 512, 0, 0, uint64(NetWrite), hDisk, 512, buf, 512, 0, uint64(BlockWrite))
		le.PutUint32(r.eax, uint32(at(i)))
		port := PortBase + uint16(c.call)
		if n := testing.AllocsPerRun(100, func() {
			if c.call == Batch {
				r.put(at(i), c.args...) // the count is a result, too
			}
			if err := bus.Access(port, 4, r.eax, true); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s allocates %v times; want 0", c.name, n)
		}
		if c.ret != 0 && r.i32(at(i)+c.ret) != c.want {
			t.Errorf("%s = %d; want %d", c.name, r.i32(at(i)+c.ret), c.want)
		}
	}
}
