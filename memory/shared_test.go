package memory

import "testing"

// TestShared: words are little-endian and two bytes long; a slice without room
// for one panics rather than reach beyond it.
func TestShared(t *testing.T) {
	b := []byte{0xee, 0xee, 1, 2, 0xee}
	if got := Load16(b[2:]); got != 0x0201 {
		t.Errorf("Load16 = %#x; want 0x201", got)
	}
	Store16(b[2:], 0xbeef)
	if want := "\xee\xee\xef\xbe\xee"; string(b) != want {
		t.Errorf("Store16 leaves %x; want %x", b, want)
	}
	for name, f := range map[string]func(){"Load16": func() { Load16(b[4:]) }, "Store16": func() { Store16(b[4:], 0) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s of one byte did not panic", name)
				}
			}()
			f()
		}()
	}
	if n := testing.AllocsPerRun(100, Fence); n != 0 {
		t.Errorf("Fence allocates %v times; want 0", n)
	}
}
