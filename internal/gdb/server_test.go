package gdb

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestAnswers holds single packets against the protocol's words.
func TestAnswers(t *testing.T) {
	c := connect(t, newFake())
	for _, p := range []struct{ packet, want string }{
		{"qSupported:multiprocess+;swbreak+", "PacketSize=4000;QStartNoAckMode+;qXfer:features:read+;qXfer:exec-file:read+;swbreak+;hwbreak+;vContSupported+"},
		{"?", "T05thread:1;"},
		{"vMustReplyEmpty", ""}, {"vAttach;1", ""}, {"R00", ""}, {"!", ""}, {"b", ""}, {"qOffsets", ""}, {"", ""}, {"vFile:open:2f,0,0", ""},
		{"qAttached", "1"}, {"qC", "QC1"}, {"qfThreadInfo", "m1,2"}, {"qsThreadInfo", "l"},
		{"qThreadExtraInfo,2", hexOf("vCPU 1")}, {"qThreadExtraInfo,3", "E22"}, {"qThreadExtraInfo,0", "E22"}, {"qThreadExtraInfo,-1", "E22"},
		{"T1", "OK"}, {"T2", "OK"}, {"T3", "E03"}, {"T0", "E03"}, {"T-1", "E03"}, {"T", "E03"},
		{"Hg2", "OK"}, {"qC", "QC2"}, {"p10", "2222000000000000"}, {"Hg0", "OK"}, {"p10", "1111000000000000"}, {"Hg-1", "OK"}, {"Hc-1", "OK"},
		{"Hg3", "E22"}, {"Hg", "E22"}, {"H", "E22"}, {"Hx1", "E22"}, {"Hgffffffffffffffff", "E22"}, {"Hg-2", "E22"},
		{"P10=8877665544332211", "OK"}, {"p10", "8877665544332211"}, {"P10=11", "E22"}, {"Pffff=00", "E22"}, {"P", "E22"}, {"P10", "E22"}, {"Pzz=00", "E22"},
		{"pffff", "E22"}, {"p", "E22"}, {"p-1", "E22"}, {"pffffffffffffffffff", "E22"},
		{"m1000,4", "00010203"}, {"m1ffe,8", "feff000102030405"}, {"m2ffe,8", "feff"}, // to the end of memory
		{"m3000,8", "E14"}, {"m0,1", "E14"}, {"mffffffffffffffff,10", "E14"}, {"m1000,0", ""}, {"m1000", "E22"}, {"m", "E22"}, {"mxx,1", "E22"}, {"m1000,ffffffffffffffffff", "E22"},
		{"M1000,2:aabb", "OK"}, {"m1000,3", "aabb02"}, {"M1000,3:aabb", "E22"}, {"M1000,1", "E22"}, {"M1000,1:zz", "E22"}, {"M2fff,2:0102", "E14"}, {"m2fff,1", "ff"},
		{"X1000,0:", "OK"}, {"X1000,4:#$}*", "OK"}, {"m1000,4", "23247d2a"}, {"X1000,2:a", "E22"}, {"X", "E22"}, {"X1000,ffffffffffffffff:a", "E22"},
		{"Z0,1010,1", "OK"}, {"Z0,1010,1;X1,0", "OK"}, {"z0,1010,1", "OK"}, {"z0,1010,1", "OK"}, {"Z3,1000,4", ""}, {"Z2,1000,4", "OK"}, {"Z0,9999,1", "E14"},
		{"Z5,1000,1", ""}, {"Z", "E22"}, {"Zx,1,1", "E22"}, {"Z0", "E22"}, {"Z0,1000", "E22"}, {"Z300,1,1", "E22"}, {"z9,1000,1", ""},
		{"vCont?", "vCont;c;C;s;S"}, {"vCont;", "E22"}, {"vCont;x", "E22"}, {"vCont;c:9", "E22"}, {"vCont;c:zz", "E22"}, {"vCont", ""}, {"cxyz", "E22"},
		{"qXfer:exec-file:read:1:0,100", "l/the/kernel"}, {"qXfer:exec-file:read::4,3", "m/ke"}, {"qXfer:exec-file:read::99,3", "l"},
		{"qXfer:features:read:other.xml:0,100", "E00"}, {"qXfer:features:write:target.xml:0,1", ""}, {"qXfer:auxv:read::0,100", ""},
		{"qXfer:features:read:target.xml:zz", "E22"}, {"qXfer:features:read:target.xml:ffffffffffffffff,ffffffffffffffff", "l"}, {"qXfer", ""},
		{"qRcmd," + hexOf("stats"), hexOf("you said stats\n")}, {"qRcmd,zz", "E22"},
		{"Gzz", "E22"}, {"G" + strings.Repeat("00", 2000), "E22"}, {"G" + strings.Repeat("07", 8), "OK"}, {"p0", "0707070707070707"},
	} {
		c.ask(p.packet, p.want)
	}
	// Where breakpoints cannot be, gdb's own kind of them is refused, and other writes are not.
	c.ask("M1000,1:cc", "OK")
	c.ask("Z0,666,1", "")
	c.ask("M1000,1:cc", "E01")
	c.ask("X1001,1:\xcc", "E01")
	c.ask("M1000,2:cc01", "OK")
	c.ask("D", "OK")
	if err := c.end(); err != nil {
		t.Errorf("serve() = %v; want nil after a detach", err)
	}
	if c.detached != 1 || c.killed || len(c.points) != 0 {
		t.Errorf("detached %d times, killed %v, %d points left; want once, no, none", c.detached, c.killed, len(c.points))
	}
}

// TestRegisters sends all registers out and back, and compares the description with the encoding.
func TestRegisters(t *testing.T) {
	f := newFake()
	binary.Decode(slices.Concat(slices.Repeat([]byte{1, 2, 3, 4, 5, 6, 7}, 200)), binary.LittleEndian, &f.regs[0])
	want := f.regs[0]
	c := connect(t, f)
	c.send("g")
	g := c.answer()
	if g != hex.EncodeToString(want.encode()) {
		t.Errorf("g = %s; want the encoding", g)
	}
	f.regs[0] = Registers{}
	c.ask("G"+g, "OK")
	if f.regs[0] != want {
		t.Errorf("registers after G = %+v; want %+v", f.regs[0], want)
	}
	size := 0
	for n, r := range registers() {
		if r.offset != size {
			t.Errorf("register %s at %d; want %d", r.name, r.offset, size)
		}
		size += r.size
		c.ask(fmt.Sprintf("p%x", n), g[2*r.offset:2*(r.offset+r.size)])
	}
	if size != registersSize() {
		t.Errorf("%d bytes of registers in the list; want %d, as in Registers", size, registersSize())
	}

	// The description, put together from the pieces that a client asks for.
	var doc string
	for more := true; more; {
		c.send(fmt.Sprintf("qXfer:features:read:target.xml:%x,3ff", len(doc)))
		piece := c.answer()
		more, doc = piece[0] == 'm', doc+piece[1:]
	}
	var x struct {
		Features []struct {
			Name string `xml:"name,attr"`
			Regs []struct {
				Name string `xml:"name,attr"`
				Bits int    `xml:"bitsize,attr"`
			} `xml:"reg"`
		} `xml:"feature"`
	}
	if err := xml.Unmarshal([]byte(doc[strings.Index(doc, "<target>"):]), &x); err != nil {
		t.Fatalf("target.xml: %v", err)
	}
	n := 0
	for _, f := range x.Features {
		for _, r := range f.Regs {
			if want := registers()[n]; r.Name != want.name || r.Bits != want.size*8 {
				t.Errorf("target.xml register %d = %+v; want %+v", n, r, want)
			}
			n++
		}
	}
	if n != len(registers()) || len(x.Features) != 5 {
		t.Errorf("target.xml has %d registers in %d features; want %d in 5", n, len(x.Features), len(registers()))
	}
}

// TestResume goes through the ways of letting a machine run.
func TestResume(t *testing.T) {
	f := newFake()
	c := connect(t, f)
	c.ask("vCont;s:2", "T05thread:2;")
	c.ask("qC", "QC2") // the thread that stopped
	c.ask("vCont;s:1;c", "T05thread:1;")
	c.ask("vCont;s:0", "T05thread:1;")
	c.ask("s", "T05thread:1;")
	c.ask("s1234", "T05thread:1;")
	c.ask("p10", "3512000000000000")
	c.ask("Hc2", "OK")
	c.ask("S05", "T05thread:2;")
	for _, e := range []struct {
		event Event
		want  string
	}{
		{Event{Thread: 1, Signal: 5, Point: true, Kind: SoftwareBreak}, "T05thread:2;swbreak:;"},
		{Event{Signal: 5, Point: true, Kind: HardwareBreak}, "T05thread:1;hwbreak:;"},
		{Event{Signal: 5, Point: true, Kind: WatchWrite, Addr: 0x1234}, "T05thread:1;watch:1234;"},
		{Event{Signal: 5, Point: true, Kind: WatchAccess, Addr: 0x1234}, "T05thread:1;awatch:1234;"},
		{Event{Signal: 11}, "T0bthread:1;"},
	} {
		c.send("vCont;c")
		c.ask("g", "E16") // busy
		f.end(e.event)
		if got := c.answer(); got != e.want {
			t.Errorf("stop by %+v = %q; want %q", e.event, got, e.want)
		}
		c.ask("?", e.want)
	}
	c.raw("\x03") // stopped: no effect
	c.send("c")
	c.raw("\x03\x03")
	if got := c.answer(); got != "T02thread:1;" {
		t.Errorf("stop by ^C = %q; want T02", got)
	}
	want := "[resume [0 2] resume [2 1] resume [2 0] resume [2 1] resume [2 1] resume [1 2] resume [1 1] resume [1 1] resume [1 1] resume [1 1] resume [1 1] resume [1 1]]"
	if got := fmt.Sprint(f.log); got != want {
		t.Errorf("resumed as %s; want %s", got, want)
	}
}

// TestEnd ends the machine in its own way, by k and by vKill.
func TestEnd(t *testing.T) {
	for _, end := range []struct {
		event Event
		want  string
	}{{Event{Exited: true, Status: 3}, "W03"}, {Event{Exited: true, Signal: 9}, "X09"}} {
		f := newFake()
		c := connect(t, f)
		c.send("c")
		testutil.Until(t, "the machine running", f.runs)
		f.end(end.event)
		if got := c.answer(); got != end.want {
			t.Errorf("end %+v = %q; want %q", end.event, got, end.want)
		}
		for _, p := range []string{"g", "m1000,4", "c", "vCont;c", "Z0,1000,1"} {
			c.ask(p, "E03")
		}
		c.ask("D", "OK")
		if err := c.end(); err != nil || f.killed || f.detached != 1 {
			t.Errorf("after the end: %v, killed %v, detached %d times; want false, once", err, f.killed, f.detached)
		}
	}
	for _, packet := range []string{"k", "vKill;1"} {
		f := newFake()
		c := connect(t, f)
		c.send(packet)
		if packet != "k" {
			if got := c.answer(); got != "OK" {
				t.Errorf("%s = %q; want OK", packet, got)
			}
		}
		if err := c.end(); err != nil || !f.killed {
			t.Errorf("%s: %v, killed %v; want true", packet, err, f.killed)
		}
	}
}

// TestNoAck switches acknowledgements off, and asks for more than fits one packet.
func TestNoAck(t *testing.T) {
	c := connect(t, newFake())
	c.ask("QStartNoAckMode", "OK")
	c.noAck = true
	c.ask("?", "T05thread:1;")
	c.send("qRcmd," + hexOf("long"))
	var text string
	for n := 0; ; n++ {
		a := c.answer()
		console := strings.HasPrefix(a, "O")
		b, err := hex.DecodeString(strings.TrimPrefix(a, "O"))
		if err != nil || len(a) > maxPacket {
			t.Fatalf("piece %d has %d bytes: %v; want hex digits, at most %d", n, len(a), err, maxPacket)
		}
		if text += string(b); !console {
			break
		}
	}
	if want := strings.Repeat("x", 3*maxPacket); text != want {
		t.Errorf("long answer has %d bytes; want %d", len(text), len(want))
	}
	c.send("m1000,ffffffffffffffff")
	if got := len(c.answer()); got != maxPacket {
		t.Errorf("largest answer to m has %d bytes; want %d", got, maxPacket)
	}
}
