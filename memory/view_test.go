package memory

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"
)

const (
	p1  = 1 * PageSize
	p2  = 2 * PageSize
	p3  = 3 * PageSize
	p4  = 4 * PageSize
	end = 6 * PageSize
)

// testView is read-only text, then writable data, a hole, write-only memory,
// and read-write memory up to the end in two pieces.
func testView(t testing.TB) *View {
	t.Helper()
	v := NewView(newMemory(t, end))
	for _, s := range []span{
		{p1 / 2, p1, Read}, // not a page border
		{p1, p2, ReadWrite},
		{p3, p4, Write},
		{p4, end - 8, ReadWrite},
		{end - 8, end, ReadWrite},
	} {
		if err := v.Grant(s.start, s.end, s.perm); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func TestView(t *testing.T) {
	v := testView(t)
	for _, c := range []struct {
		a       Addr
		n       uint64
		r, w, b bool // readable, writable, both
	}{
		// Nothing granted below.
		{0, 1, false, false, false},
		{p1/2 - 1, 1, false, false, false},
		{p1/2 - 1, 2, false, false, false},
		// Read-only span and its border to the writable one.
		{p1 / 2, 1, true, false, false},
		{p1 / 2, p1 / 2, true, false, false},
		{p1 - 1, 1, true, false, false},
		{p1 - 1, 2, true, false, false},
		{p1 / 2, p2 - p1/2, true, false, false},
		{p1, p1, true, true, true},
		{p2 - 1, 1, true, true, true},
		// The hole.
		{p2 - 1, 2, false, false, false},
		{p2, 1, false, false, false},
		{p3 - 1, 1, false, false, false},
		{p3 - 1, 2, false, false, false},
		{p1, p2, false, false, false},
		{p1, p3, false, false, false}, // both sides and all of it
		// Write-only, then three spans in one request.
		{p3, p1, false, true, false},
		{p4 - 1, 2, false, true, false},
		{p3, end - p3, false, true, false},
		{p4, end - p4, true, true, true},
		// The end of memory.
		{end - 9, 9, true, true, true},
		{end - 8, 8, true, true, true},
		{end - 1, 1, true, true, true},
		{end - 1, 2, false, false, false},
		{end, 1, false, false, false},
		{end - 8, 9, false, false, false},
		{1<<64 - 1, 1, false, false, false},
		{1<<64 - 1, 2, false, false, false},
		{p1, 1<<64 - p1, false, false, false},
		{p1, 1<<64 - 1, false, false, false},
		// Nothing at all is allowed up to the end, granted or not.
		{0, 0, true, true, true},
		{p2, 0, true, true, true},
		{end, 0, true, true, true},
		{end + 1, 0, false, false, false},
		{1<<64 - 1, 0, false, false, false},
	} {
		for _, f := range []struct {
			name string
			call func(Addr, uint64) ([]byte, error)
			want Perm
			ok   bool
		}{
			{"Readable", v.Readable, Read, c.r},
			{"Writable", v.Writable, Write, c.w},
			{"Access", func(a Addr, n uint64) ([]byte, error) { return v.Access(a, n, ReadWrite) }, ReadWrite, c.b},
		} {
			b, err := f.call(c.a, c.n)
			if f.ok != (err == nil) {
				t.Errorf("%s(%v, %d) = %v; want success %v", f.name, c.a, c.n, err, f.ok)
				continue
			}
			var ae *AccessError
			switch {
			case err == nil && (uint64(len(b)) != c.n || uint64(cap(b)) != c.n || c.n > 0 && &b[0] != &v.mem.host[c.a]):
				t.Errorf("%s(%v, %d) = %d bytes, capacity %d; want those bytes of memory", f.name, c.a, c.n, len(b), cap(b))
			case err != nil && (b != nil || !errors.As(err, &ae) || *ae != (AccessError{c.a, c.n, f.want, Addr(v.mem.Size())})):
				t.Errorf("%s(%v, %d) = %d bytes, %v; want no bytes and an AccessError that says so", f.name, c.a, c.n, len(b), err)
			}
		}
	}
}

func TestEmptyView(t *testing.T) {
	v := NewView(newMemory(t, PageSize))
	if b, err := v.Readable(0, 1); err == nil {
		t.Errorf("Readable(0, 1) of a view without grants = %d bytes; want an error", len(b))
	}
}

func TestGrant(t *testing.T) {
	type rng struct{ start, end Addr }
	for _, c := range []struct {
		before []rng
		add    rng
		want   string // part of the error, "" for success
		spans  int
	}{
		{nil, rng{0, end}, "", 1},
		{nil, rng{end - 1, end}, "", 1},
		{nil, rng{5, 5}, "", 0}, // empty: no span
		{nil, rng{end, end}, "", 0},
		{nil, rng{6, 5}, "0x6-0x5: ends before it starts", 0},
		{nil, rng{1<<64 - 1, 0}, "ends before it starts", 0},
		{nil, rng{0, end + 1}, "memory ends at 0x6000", 0},
		{nil, rng{end, end + 1}, "memory ends at 0x6000", 0},
		{nil, rng{0, 1<<64 - 1}, "memory ends at 0x6000", 0},
		{[]rng{{p1, p2}}, rng{p2, p3}, "", 2},
		{[]rng{{p1, p2}}, rng{p3, p4}, "", 2},
		{[]rng{{p1, p2}}, rng{p2 - 1, p3}, "not above the one before, which ends at 0x2000", 1},
		{[]rng{{p1, p2}}, rng{0, p1}, "not above the one before", 1},
		{[]rng{{p1, p2}}, rng{p1, p2}, "not above the one before", 1},
		{[]rng{{p1, p2}}, rng{0, end}, "not above the one before", 1},
	} {
		v := NewView(newMemory(t, end))
		for _, r := range c.before {
			if err := v.Grant(r.start, r.end, Read); err != nil {
				t.Fatal(err)
			}
		}
		err := v.Grant(c.add.start, c.add.end, Read)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Grant(%v, %v) after %v = %v; want %q", c.add.start, c.add.end, c.before, err, c.want)
		}
		if len(v.spans) != c.spans {
			t.Errorf("Grant(%v, %v) after %v leaves %d spans; want %d", c.add.start, c.add.end, c.before, len(v.spans), c.spans)
		}
	}
}

// model is what a View ought to allow, byte by byte.
type model []Perm

func (m model) grant(start, end Addr, p Perm) {
	for a := start; a < end; a++ {
		m[a] = p
	}
}

func (m model) allows(a Addr, n uint64, want Perm) bool {
	stop, carry := bits.Add64(uint64(a), n, 0)
	if carry != 0 || stop > uint64(len(m)) {
		return false
	}
	for ; uint64(a) < stop; a++ {
		if m[a]&want != want {
			return false
		}
	}
	return true
}

// compare checks one request against the model.
func compare(t testing.TB, v *View, m model, a Addr, n uint64, want Perm) {
	t.Helper()
	b, err := v.Access(a, n, want)
	if ok := m.allows(a, n, want); ok != (err == nil) {
		t.Fatalf("Access(%v, %d, %v) with spans %v = %v; want success %v", a, n, want, v.spans, err, ok)
	}
	if err == nil && uint64(len(b)) != n || err != nil && b != nil {
		t.Fatalf("Access(%v, %d, %v) = %d bytes, %v; want %d or an error", a, n, want, len(b), err, n)
	}
}

// TestViewModel compares random layouts with the model, asking most often at
// the borders.
func TestViewModel(t *testing.T) {
	const size = PageSize
	mem := newMemory(t, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	allowed := 0
	for range 300 {
		v, m := NewView(mem), make(model, size)
		edges := []Addr{0, size}
		for a := Addr(rnd.IntN(64)); a < size && len(v.spans) < 12; {
			e := min(a+Addr(rnd.IntN(900)), size)
			p := Perm(rnd.IntN(4))
			if err := v.Grant(a, e, p); err != nil {
				t.Fatal(err)
			}
			m.grant(a, e, p)
			edges = append(edges, a, e)
			a = e
			if rnd.IntN(2) == 0 {
				a += Addr(rnd.IntN(200))
			}
		}
		near := func() Addr { return edges[rnd.IntN(len(edges))] + Addr(rnd.IntN(5)) - 2 }
		for range 300 {
			a := near()
			n := uint64(near() - a)
			if rnd.IntN(4) == 0 {
				n = uint64(rnd.IntN(300))
			}
			want := Perm(1 + rnd.IntN(3))
			compare(t, v, m, a, n, want)
			if m.allows(a, n, want) {
				allowed++
			}
		}
	}
	if allowed < 1000 {
		t.Errorf("%d requests of 90000 were allowed; want more, or else the comparison says little", allowed)
	}
}

// TestViewAllocs pins the path of every hypercall.
func TestViewAllocs(t *testing.T) {
	v := testView(t)
	if n := testing.AllocsPerRun(100, func() {
		_, err1 := v.Readable(p1/2, p2-p1/2)
		_, err2 := v.Writable(p3, end-p3)
		_, err3 := v.Access(p4, end-p4, ReadWrite)
		if err1 != nil || err2 != nil || err3 != nil {
			t.Error(err1, err2, err3)
		}
	}); n != 0 {
		t.Errorf("Readable, Writable and Access allocate %v times; want 0", n)
	}
}

// FuzzView lets the input choose the spans (four bytes each: gap, length, both
// times 16, permission, unused) and one request.
func FuzzView(f *testing.F) {
	f.Add([]byte{}, uint64(0), uint64(1), byte(1))
	f.Add([]byte{0, 16, 1, 0, 0, 16, 3, 0}, uint64(255), uint64(2), byte(1))
	f.Add([]byte{0, 16, 1, 0, 0, 16, 3, 0}, uint64(255), uint64(2), byte(3))
	f.Add([]byte{0, 16, 3, 0, 1, 16, 3, 0}, uint64(0), uint64(528), byte(2))
	f.Add([]byte{0, 255, 3, 0}, uint64(4080), uint64(1), byte(2))
	f.Add([]byte{0, 255, 3, 0}, uint64(4096), uint64(0), byte(2))
	f.Add([]byte{0, 255, 3, 0}, uint64(4097), uint64(0), byte(2))
	f.Add([]byte{0, 255, 3, 0}, uint64(1), uint64(1<<64-1), byte(2))
	f.Add([]byte{0, 255, 3, 0}, uint64(1<<64-1), uint64(2), byte(3))
	const size = PageSize
	mem := newMemory(f, size)
	f.Fuzz(func(t *testing.T, layout []byte, a, n uint64, want byte) {
		v, m := NewView(mem), make(model, size)
		var at Addr
		for ; len(layout) >= 4 && len(v.spans) < 32; layout = layout[4:] {
			start := at + Addr(layout[0])*16
			stop := start + Addr(layout[1])*16
			err := v.Grant(start, stop, Perm(layout[2]&3))
			// An empty range means nothing and is taken anywhere.
			if want := stop > size && start != stop; want != (err != nil) {
				t.Fatalf("Grant(%v, %v) = %v; want error %v", start, stop, err, want)
			}
			if err == nil && start != stop {
				m.grant(start, stop, Perm(layout[2]&3))
				at = stop
			}
		}
		p := 1 + Perm(want)%3
		compare(t, v, m, Addr(a), n, p)
		compare(t, v, m, Addr(a%(2*size)), n%(2*size), p)
	})
}
