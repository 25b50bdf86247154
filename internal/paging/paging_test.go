package paging

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// memory is a small physical memory.
type mem []byte

func (m mem) at(gpa, n uint64) ([]byte, bool) {
	if gpa > uint64(len(m)) || n > uint64(len(m))-gpa {
		return nil, false
	}
	return m[gpa : gpa+n], true
}

func (m mem) put(gpa, index, entry uint64) { binary.LittleEndian.PutUint64(m[gpa+index*8:], entry) }

func tables(m mem) *Tables {
	return &Tables{CR0: cr0PG, CR3: 0x1000, EFER: eferLMA, Read: Reader(m.at)}
}

const all = present | writable | user

// example maps a page, a large page, a huge page, and what leads nowhere.
func example() mem {
	m := make(mem, 0x8000)
	m.put(0x1000, 0, 0x2000|all)
	m.put(0x1000, 511, 0x2000|present) // once more, high, read-only
	m.put(0x2000, 0, 0x3000|all)
	m.put(0x2000, 1, 0x40000000|all|large)
	m.put(0x2000, 2, 0xffffff000|all) // a table outside memory
	m.put(0x3000, 0, 0x4000|all)
	m.put(0x3000, 1, 0x200000|all|large|noExec)
	m.put(0x4000, 1, 0x5000|all)
	m.put(0x4000, 2, 0x6000|present|writable)
	m.put(0x4000, 5, 0x1000|all)
	return m
}

func TestFind(t *testing.T) {
	high := uint64(0xffffff8000000000)
	for _, c := range []struct {
		va   uint64
		want Mapping
		ok   bool
	}{
		{0x1234, Mapping{0x1000, 0x5000, 4096, true, true, false, false}, true},
		{0x2fff, Mapping{0x2000, 0x6000, 4096, true, false, false, false}, true},
		{0x0, Mapping{}, false}, {0x3000, Mapping{}, false},
		{0x3fffff, Mapping{0x200000, 0x200000, 2 << 20, true, true, true, true}, true},
		{0x40001234, Mapping{0x40000000, 0x40000000, 1 << 30, true, true, false, true}, true},
		{0x80000000, Mapping{}, false}, // through a table outside memory
		{high | 0x1234, Mapping{high | 0x1000, 0x5000, 4096, false, false, false, false}, true},
		{0x8000_0000_0000, Mapping{}, false}, {0x7f80_0000_1000, Mapping{}, false}, {^uint64(0), Mapping{}, false},
		{0x0000_ff80_0000_1000, Mapping{}, false}, // not canonical
	} {
		if got, ok, err := tables(example()).Find(c.va); got != c.want || ok != c.ok || err != nil {
			t.Errorf("Find(%#x) = %+v, %v, %v; want %+v, %v", c.va, got, ok, err, c.want, c.ok)
		}
	}
	plain := &Tables{}
	if m, ok, err := plain.Find(0x1234); m.GPA != 0x1000 || !ok || err != nil {
		t.Errorf("Find() without paging = %+v, %v, %v; want the address itself", m, ok, err)
	}
	if _, ok, _ := plain.Find(1 << 32); ok {
		t.Error("Find(1 << 32) without paging = true; want false")
	}
	var mode *ModeError
	if _, _, err := (&Tables{CR0: cr0PG}).Find(0); !errors.As(err, &mode) {
		t.Errorf("Find() with 32-bit paging = %v; want a ModeError", err)
	}
	five := example()
	five.put(0x7000, 0, 0x1000|all)
	five.put(0x7000, 256, 0x1000|all)
	t5 := tables(five)
	t5.CR3, t5.CR4 = 0x7000, cr4LA57
	for _, va := range []uint64{0x1234, 0xff00_0000_0000_1234} {
		if m, ok, err := t5.Find(va); m.GPA != 0x5000 || !ok || err != nil {
			t.Errorf("Find(%#x) with five levels = %+v, %v, %v; want 0x5000", va, m, ok, err)
		}
	}
}

func TestEach(t *testing.T) {
	m := example()
	m.put(0x4000, 3, 0x7000|all) // with the one before: two pages in a row
	var got []Mapping
	if err := tables(m).Each(func(m Mapping) bool { got = append(got, m); return true }); err != nil {
		t.Fatal(err)
	}
	high := uint64(0xffffff8000000000)
	var want []Mapping
	for _, base := range []uint64{0, high} {
		want = append(want,
			Mapping{VA: base + 0x1000, GPA: 0x5000, Size: 0x3000}, Mapping{VA: base + 0x5000, GPA: 0x1000, Size: 0x1000},
			Mapping{VA: base + 0x200000, GPA: 0x200000, Size: 2 << 20}, Mapping{VA: base + 0x40000000, GPA: 0x40000000, Size: 1 << 30})
	}
	if len(got) != len(want) {
		t.Fatalf("Each() = %d mappings %+v; want %+v", len(got), got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("mapping %d = %+v; want %+v", i, got[i], want[i])
		}
	}
	n := 0
	tables(m).Each(func(Mapping) bool { n++; return n < 2 })
	if n != 2 {
		t.Errorf("Each() went on to %d mappings; want 2, as its function said", n)
	}
}

// TestLoop has tables whose every entry is the table itself: no recursion without end, and an error.
func TestLoop(t *testing.T) {
	m := make(mem, 0x2000)
	for i := range uint64(512) {
		m.put(0x1000, i, 0x1000|all)
	}
	tb := tables(m)
	if got, ok, err := tb.Find(0x7fff_ffff_f000); got.GPA != 0x1000 || !ok || err != nil {
		t.Errorf("Find() in a loop = %+v, %v, %v; want a page", got, ok, err)
	}
	n := 0
	if err := tb.Each(func(Mapping) bool { n++; return true }); !errors.Is(err, ErrTooMany) || n > maxEntries {
		t.Errorf("Each() in a loop = %v after %d mappings; want ErrTooMany", err, n)
	}
}

// FuzzTables walks random tables: no panic, no address outside what Find says.
func FuzzTables(f *testing.F) {
	f.Add(uint64(1), uint64(0x1234), uint64(0), uint64(0x1000))
	f.Fuzz(func(t *testing.T, seed, va, cr4, cr3 uint64) {
		m := make(mem, 0x4000)
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range uint64(0x4000 / 8) {
			if r.IntN(8) == 0 {
				m.put(0, i, r.Uint64()&(0x7000|all|large|noExec)|r.Uint64()&present)
			}
		}
		tb := &Tables{CR0: cr0PG, CR3: cr3, CR4: cr4, EFER: eferLMA, Read: Reader(m.at)}
		if p, ok, err := tb.Find(va); ok && (err != nil || va < p.VA || va-p.VA >= p.Size) {
			t.Errorf("Find(%#x) = %+v, %v; want a page around it", va, p, err)
		}
		seen := uint64(0)
		tb.Each(func(p Mapping) bool {
			if q, ok, _ := tb.Find(p.VA); !ok || q.GPA != p.GPA {
				t.Errorf("Each() has %+v; Find() has %+v, %v", p, q, ok)
			}
			seen++
			return seen < 1000
		})
	})
}
