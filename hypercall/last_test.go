package hypercall

import (
	"errors"
	"testing"
)

// TestLast remembers the last 16 calls with their results, the one that ended the guest among them.
func TestLast(t *testing.T) {
	r := newRig(t)
	if got := r.Table.Last(); len(got) != 0 {
		t.Errorf("Last() before any call = %+v; want none", got)
	}
	call := func(c Call, at uint64, args ...uint64) error {
		r.put(at, args...)
		le.PutUint32(r.eax, uint32(at))
		return r.Table.PortOut(PortBase+uint16(c), 4, r.eax)
	}
	for i := range uint64(20) {
		if err := call(NetRead, dataAddr+64*i, hDisk, buf, i, 0); err != nil { // a bad handle
			t.Fatal(err)
		}
	}
	if err := call(Walltime, dataAddr); err != nil {
		t.Fatal(err)
	}
	var halt *Halt
	if err := call(HaltCall, dataAddr, 0, 7); !errors.As(err, &halt) {
		t.Fatalf("HALT = %v; want a *Halt", err)
	}
	got := r.Table.Last()
	if len(got) != 16 {
		t.Fatalf("Last() has %d calls; want 16", len(got))
	}
	if c := got[0]; c.Call != HaltCall || c.Done || c.Arg[8] != 7 || c.Addr != dataAddr {
		t.Errorf("the latest call = %+v; want HALT with status 7, not done", c)
	}
	if c := got[1]; c.Call != Walltime || !c.Done || c.Result != 0 {
		t.Errorf("the call before = %+v; want WALLTIME, done", c)
	}
	for i, c := range got[2:] {
		n := 19 - uint64(i)
		if c.Call != NetRead || !c.Done || c.Result != resultInval || c.Addr != uint32(dataAddr+64*n) || le.Uint64(c.Arg[16:]) != n {
			t.Errorf("call %d = %+v; want NET_READ of %d bytes, EINVAL", i+2, c, n)
		}
	}
}
