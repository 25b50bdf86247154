package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/memory"
	"github.com/uvm-monitor/uvm/vmm"
)

// fakeVM calls the function of Trace when a test says so.
type fakeVM struct {
	mu sync.Mutex
	f  func(*vmm.Event)
}

func (v *fakeVM) Trace(f func(*vmm.Event)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.f = f
}

func (v *fakeVM) happen(e *vmm.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.f != nil {
		v.f(e)
	}
}

// guestMemory is two pages that the guest may read, and one that it may not.
func guestMemory(t testing.TB) (*memory.Memory, *memory.View) {
	t.Helper()
	mem, err := memory.New(3 * memory.PageSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	view := memory.NewView(mem)
	if err := view.Grant(0, 2*memory.PageSize, memory.ReadWrite); err != nil {
		t.Fatal(err)
	}
	return mem, view
}

func words(w ...uint64) (b []byte) {
	for _, x := range w {
		b = le.AppendUint64(b, x)
	}
	return b
}

// call is the event of a hypercall whose structure was before, and is after at 0x100.
func call(t testing.TB, c hypercall.Call, before, after []byte, err error) *vmm.Event {
	mem, view := guestMemory(t)
	const at = 0x100
	copy(mem.Host()[at:], after)
	copy(mem.Host()[0x400:], "Hello\n\x1b[31m")
	e := &vmm.Event{Start: time.Millisecond, Took: 12300, View: view, Call: append(before, make([]byte, 40)...)[:40], Err: err}
	e.IO.Port, e.IO.Size, e.IO.Count, e.IO.Out, e.IO.Data = hypercall.PortBase+uint16(c), 4, 1, true, le.AppendUint32(nil, at)
	return e
}

func port(p uint16, size, count int, out bool, data string) *vmm.Event {
	e := &vmm.Event{}
	e.IO.Port, e.IO.Size, e.IO.Count, e.IO.Out, e.IO.Data = p, size, count, out, []byte(data)
	return e
}

func mmio(addr uint64, write bool, device, data string) *vmm.Event {
	e := &vmm.Event{Device: device}
	e.MMIO.Addr, e.MMIO.Len, e.MMIO.Write, e.MMIO.Data = addr, len(data), write, []byte(data)
	return e
}

// TestLine holds each kind of event to its text and to its JSON.
func TestLine(t *testing.T) {
	netRead := append(words(2, 0x500, 98), 0)
	trap := port(14, 4, 1, true, "\x00\x00\x00\x00")
	trap.Trap, trap.RIP, trap.Code, trap.CR2 = true, 0x101234, 5, 0xdead
	halted := errors.New("halted")
	for _, c := range []struct {
		e    *vmm.Event
		want string
	}{
		{call(t, hypercall.Walltime, words(0), words(1700000000000000000), nil), "WALLTIME() = 1700000000000000000 <12.3µs>"},
		{call(t, hypercall.Puts, words(0x400, 6), words(0x400, 6), nil), `PUTS("Hello\n", 6) <12.3µs>`},
		{call(t, hypercall.Puts, words(0x400, 11), nil, nil), `PUTS("Hello\n\x1b[31m", 11) <12.3µs>`},
		{call(t, hypercall.Puts, words(0x400, 4000), nil, nil), `PUTS("Hello\n\x1b[31m` + strings.Repeat(`\x00`, keptBytes-11) + `"..., 4000) <12.3µs>`},
		{call(t, hypercall.Puts, words(0x400, 1<<63), nil, nil), `PUTS("Hello\n\x1b[31m` + strings.Repeat(`\x00`, keptBytes-11) + `"..., 9223372036854775808) <12.3µs>`},
		{call(t, hypercall.Puts, words(1<<63, 5), nil, &hypercall.PointerError{}), `PUTS(structure=0x100) = ended <12.3µs>`},
		{call(t, hypercall.Poll, words(1e9), append(words(1e9, 4), 1), nil), "POLL(timeout_ns=1000000000) = 1 ready, set 0x4 <12.3µs>"},
		{call(t, hypercall.Poll, words(5), words(5, 0, 0), nil), "POLL(timeout_ns=5) = 0 ready <12.3µs>"},
		{call(t, hypercall.Poll, words(5), words(5, 77, 77), devices.ErrInterrupted), "POLL(timeout_ns=5) = interrupted <12.3µs>"},
		{call(t, hypercall.BlockRead, words(1, 4096, 0x500, 512), words(1, 4096, 0x500, 512, 0), nil), "BLOCK_READ(handle=1, offset=4096, len=512) = OK <12.3µs>"},
		{call(t, hypercall.BlockWrite, words(9, 1, 2, 3), words(9, 1, 2, 3, 2), nil), "BLOCK_WRITE(handle=9, offset=1, len=3) = EINVAL <12.3µs>"},
		{call(t, hypercall.NetWrite, words(2, 0x500, 64), words(2, 0x500, 64, 3), nil), "NET_WRITE(handle=2, len=64) = EUNSPEC <12.3µs>"},
		{call(t, hypercall.NetRead, words(2, 0x500, 1514), netRead, nil), "NET_READ(handle=2, len=1514) = OK, 98 bytes <12.3µs>"},
		{call(t, hypercall.NetRead, words(2, 0x500, 1514), words(2, 0x500, 1514, 1), nil), "NET_READ(handle=2, len=1514) = AGAIN <12.3µs>"},
		{call(t, hypercall.NetRead, words(2, 0x500, 1514), words(2, 0x500, 1514, 1<<32-1), nil), "NET_READ(handle=2, len=1514) = -1 <12.3µs>"},
		{call(t, hypercall.HaltCall, words(0, 3), nil, halted), "HALT(status=3) = ended <12.3µs>"},
		{call(t, hypercall.HaltCall, words(0x400, 1<<32-1), nil, halted), "HALT(status=-1, cookie=0x400) = ended <12.3µs>"},
		{call(t, 0, nil, nil, &hypercall.InvalidCallError{}), "hypercall 0(structure=0x100) = ended <12.3µs>"},
		{port(0x3f0, 1, 1, true, "A"), "outb 0x3f0 <- 0x41 'A' (boot mark) <0.0µs>"},
		{port(0x3fd, 1, 1, false, "\x60"), "inb 0x3fd -> 0x60 (COM1 LSR) <0.0µs>"},
		{port(0x3f8, 1, 5, true, "a\n\x1bb\x00"), `outb 0x3f8 <- "a\n\x1bb\x00" (COM1 data), 5 times <0.0µs>`},
		{port(0x3f8, 1, 0, true, ""), `outb 0x3f8 <- "" (COM1 data), 0 times <0.0µs>`},
		{port(0x3f8, 1, 1000, true, strings.Repeat("x", 1000)), `outb 0x3f8 <- "` + strings.Repeat("x", keptBytes) + `"... (COM1 data), 1000 times <0.0µs>`},
		{port(0xcf8, 4, 1, true, "\x00\x00\x00\x80"), "outl 0xcf8 <- 0x80000000 <0.0µs>"},
		{port(0x604, 2, 1, true, "\x00\x20"), "outw 0x604 <- 0x2000 (PM1a control) <0.0µs>"},
		{mmio(0xd0000070, false, `disk "vda"`, "\x0f\x00\x00\x00"), `read32 0xd0000070 -> 0xf (disk "vda" Status) <0.0µs>`},
		{mmio(0xd0001104, true, `net "eth0"`, "\x01\x02\x03\x04\x05\x06\x07\x08"), `write64 0xd0001104 <- 0x807060504030201 (net "eth0" Config+0x4) <0.0µs>`},
		{mmio(0xfee00000, false, "", "\xff"), "read8 0xfee00000 -> 0xff (nothing there) <0.0µs>"},
		{mmio(0xd0000048, true, "rng", "\xff\xff"), "write16 0xd0000048 <- 0xffff (rng 0x48) <0.0µs>"},
		{trap, "trap #PF(rip=0x101234, error=0x5, address=0xdead) <0.0µs>"},
		{&vmm.Event{VCPU: -1, Device: "rng"}, "irq rng"},
		{&vmm.Event{Reason: 5, Err: halted}, "exit HLT = ended <0.0µs>"},
	} {
		var r Record
		r.fill(c.e)
		l := r.Line()
		if got := strings.TrimSpace(l.Text(false)[11:]); got != c.want {
			t.Errorf("text of %v = %s; want %s", c.e.IO, got, c.want)
		}
		b, err := json.Marshal(l)
		var back struct {
			At   int64          `json:"t_ns"`
			Args map[string]any `json:"args"`
		}
		if err2 := json.Unmarshal(b, &back); err != nil || err2 != nil || back.At != int64(c.e.Start) || len(back.Args) != len(l.Args) {
			t.Errorf("JSON of %q = %s, %v, %v; want all fields", c.want, b, err, err2)
		}
	}
}

// TestBatch shows requests with the results of those that were tried.
func TestBatch(t *testing.T) {
	e := call(t, hypercall.Batch, words(0x800, 3), words(0x800, 1, 2), nil)
	b, _ := e.View.Writable(0x800, 4*requestSize)
	copy(b, words(1, 512, 0x500, 512, 0, uint64(hypercall.BlockRead), 2, 0x500, 64, 2, 0, uint64(hypercall.NetWrite), 2, 0x500, 64, 7, 0, uint64(hypercall.NetWrite)))
	var r Record
	r.fill(e)
	l := r.Line()
	want := `BATCH(requests=3, 0="BLOCK_READ(handle=1, offset=512, len=512) = OK", 1="NET_WRITE(handle=2, len=64) = EINVAL", 2="NET_WRITE(handle=2, len=64)") = EINVAL, 1 done`
	if l.text != want || !l.Failed {
		t.Errorf("text = %s, failed %v; want %s, true", l.text, l.Failed, want)
	}
}

// FuzzRecord has the guest choose everything. Nothing may panic, and text has no
// control characters.
func FuzzRecord(f *testing.F) {
	f.Add(uint16(0x502), 4, 1, true, words(0x400, 5), words(0x400, 5), uint64(0x100), true)
	f.Add(uint16(0x509), 4, 1, true, words(0x400, 1<<60), words(0x400, 1<<60), uint64(0x1ff8), true)
	f.Add(uint16(0x3f8), 1, 9, true, []byte("\x1b]0;x"), []byte{}, uint64(0), false)
	mem, view := guestMemory(f)
	f.Fuzz(func(t *testing.T, p uint16, size, count int, out bool, arg, live []byte, at uint64, isCall bool) {
		clear(mem.Host())
		copy(mem.Host()[at%(2*memory.PageSize):], live)
		e := port(p, size, count, out, string(arg))
		e.View, e.MMIO.Len, e.MMIO.Data, e.MMIO.Addr = view, size%9, arg, at
		if isCall {
			e.Call = append(arg[:len(arg):len(arg)], make([]byte, 40)...)[:40]
			e.IO.Port = hypercall.PortBase + p%hypercall.NumCalls
			e.IO.Data = le.AppendUint32(nil, uint32(at))
		}
		var r Record
		r.fill(e)
		l := r.Line()
		if s := l.Text(true); strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("text %q has control characters", s)
		}
		if _, err := json.Marshal(l); err != nil {
			t.Error(err)
		}
		s := newSummary()
		s.add(&r)
		if err := WriteTable(&bytes.Buffer{}, s.Rows()); err != nil {
			t.Error(err)
		}
	})
}

func TestFilter(t *testing.T) {
	all := []Record{{Kind: Hypercall, Call: hypercall.Poll}, {Kind: Hypercall, Call: hypercall.NetRead}, {Kind: Port}, {Kind: MMIO}, {Kind: Trap}, {Kind: IRQ}, {Kind: Exit}}
	for _, c := range []struct{ text, want string }{
		{"", "1111111"},
		{"hypercall", "1100000"},
		{"hypercall,mmio", "1101000"},
		{"POLL", "1000000"},
		{"poll, Net_Read ,irq", "1100010"},
		{"!POLL", "0111111"},
		{"!hypercall,trap", "0011011"},
		{"exit,port", "0010001"},
	} {
		f, err := ParseFilter(c.text)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for i := range all {
			got += fmt.Sprintf("%b", map[bool]int{true: 1}[f.match(&all[i])])
		}
		if got != c.want || f.String() != c.text {
			t.Errorf("%q lets through %s, and is %q; want %s", c.text, got, f, c.want)
		}
	}
	for _, bad := range []string{"x", "POLL,", ",", "!", "!x", "hypercall 0", "POLL NET_READ"} {
		if f, err := ParseFilter(bad); err == nil {
			t.Errorf("ParseFilter(%q) = %v, nil; want an error", bad, f)
		}
	}
	if !(*Filter)(nil).match(&all[0]) {
		t.Error("no filter lets nothing through; want all")
	}
}

// TestHub: listeners come and go, each has its filter; one that does not read loses what
// it has no room for, and only that.
func TestHub(t *testing.T) {
	vm := &fakeVM{}
	h := NewHub(vm)
	if vm.f != nil {
		t.Error("a Hub without listeners traces")
	}
	marks, _ := ParseFilter("port")
	slow, fast, sum := h.Listen(nil, 3), h.Listen(marks, 100), h.Summarize(nil)
	for range 10 {
		vm.happen(port(0x3f0, 1, 1, true, "A"))
		vm.happen(&vmm.Event{VCPU: -1, Device: "rng"})
	}
	if slow.Dropped() != 17 || len(slow.C) != 3 || fast.Dropped() != 0 || len(fast.C) != 10 {
		t.Errorf("slow has %d and lost %d, fast %d and %d; want 3, 17, 10, 0", len(slow.C), slow.Dropped(), len(fast.C), fast.Dropped())
	}
	slow.Close()
	fast.Close()
	fast.Close()
	vm.happen(port(0x3f0, 1, 1, true, "A"))
	if len(fast.C) != 10 || slow.Dropped() != 17 {
		t.Error("a closed listener gets records")
	}
	rows := sum.Summary().Rows()
	if len(rows) != 2 || rows[0].Count != 11 || rows[0].Name != "out 0x3f0 (boot mark)" || rows[1].Count != 10 || rows[1].Name != "irq rng" {
		t.Errorf("rows = %+v; want 11 marks and 10 interrupts", rows)
	}
	sum.Close()
	if vm.f != nil {
		t.Error("a Hub whose listeners have gone traces")
	}
}

// TestSummary: rows by time, errors counted, interrupted calls once.
func TestSummary(t *testing.T) {
	s := newSummary()
	add := func(e *vmm.Event, took time.Duration) {
		var r Record
		e.Took = took
		r.fill(e)
		s.add(&r)
	}
	add(call(t, hypercall.BlockRead, words(1, 0, 0, 512), words(1, 0, 0, 512, 0), nil), 2000)
	add(call(t, hypercall.BlockRead, words(1, 0, 0, 512), words(1, 0, 0, 512, 3), nil), 4000)
	add(call(t, hypercall.Poll, words(1), nil, devices.ErrInterrupted), 9000)
	add(call(t, hypercall.Poll, words(1), nil, nil), 1000)
	add(call(t, hypercall.HaltCall, words(0, 0), nil, errors.New("x")), 1000)
	add(mmio(0xd0000070, false, "rng", "1234"), 500)
	add(mmio(0x1234, true, "", "1"), 200)
	add(mmio(0x5678, true, "", "1"), 200)
	add(&vmm.Event{Reason: 8, Err: errors.New("x")}, 0)
	var got []string
	for _, r := range s.Rows() {
		got = append(got, fmt.Sprintf("%s %d/%d %d", r.Name, r.Errors, r.Count, r.Time))
	}
	want := "POLL 0/1 10000; BLOCK_READ 1/2 6000; HALT 0/1 1000; read rng Status 0/1 500; write (nothing there) 0/2 400; exit SHUTDOWN 1/1 0"
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("rows = %s; want %s", s, want)
	}
	var b bytes.Buffer
	WriteTable(&b, s.Rows()[:2])
	wantTable := `% time     seconds   usecs/call     calls    errors name
------ ----------- ----------- --------- --------- --------------------
 62.50    0.000010        10.0         1           POLL
 37.50    0.000006         3.0         2         1 BLOCK_READ
------ ----------- ----------- --------- --------- --------------------
100.00    0.000016         5.3         3         1 total
`
	if b.String() != wantTable {
		t.Errorf("table =\n%s\nwant\n%s", &b, wantTable)
	}
}

// TestEventAllocatesNothing: a listener costs a vCPU no garbage, also when it loses
// records.
func TestEventAllocatesNothing(t *testing.T) {
	vm := &fakeVM{}
	h := NewHub(vm)
	h.Listen(nil, 10)
	h.Summarize(nil)
	for _, e := range []*vmm.Event{call(t, hypercall.Puts, words(0x400, 11), nil, nil), port(0x3f8, 1, 1, true, "x"), mmio(0xd0000070, false, "rng", "1234"), {VCPU: -1}} {
		if n := testing.AllocsPerRun(100, func() { vm.happen(e) }); n != 0 {
			t.Errorf("an event allocates %v times; want 0", n)
		}
	}
}
