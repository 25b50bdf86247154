package runlog

import (
	"bytes"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// read returns all that a ring has from pos on, with the lost bytes.
func read(r *Ring, pos uint64) (console, monitor string, lost, next uint64) {
	var words [2]strings.Builder
	for {
		source, data, n, next, more := r.Next(pos)
		lost += n
		if data == nil {
			if more == nil {
				panic("neither words nor a channel")
			}
			return words[0].String(), words[1].String(), lost, next
		}
		i := 0
		if source == Monitor {
			i = 1
		}
		words[i].Write(data)
		pos = next
	}
}

func TestRing(t *testing.T) {
	var r Ring
	if c, m, lost, next := read(&r, 0); c+m != "" || lost+next != 0 {
		t.Errorf("an empty ring has %q, %q, %d, %d", c, m, lost, next)
	}
	r.Write(Console, []byte("one "))
	r.Write(Monitor, []byte("uvm "))
	r.Write(Console, nil)
	r.Write(Console, []byte("two"))
	c, m, lost, pos := read(&r, 0)
	if c != "one two" || m != "uvm " || lost != 0 || pos != 11 {
		t.Errorf("the ring has %q, %q, %d, %d", c, m, lost, pos)
	}
	r.Write(Console, []byte("three"))
	if c, _, lost, _ := read(&r, pos); c != "three" || lost != 0 {
		t.Errorf("from %d on it has %q, %d lost; want three", pos, c, lost)
	}
	all := strings.Repeat("0123456789", RingSize/5)
	r.Write(Console, []byte(all))
	c, m, lost, next := read(&r, pos)
	if !strings.HasSuffix(all, c) || len(c) < RingSize-chunkSize || m != "" || lost == 0 || pos+lost+uint64(len(c)) != next {
		t.Errorf("after a flood it has %d bytes, %q, %d lost, up to %d", len(c), m, lost, next)
	}
}

// TestRingWait: a reader learns of the next words.
func TestRingWait(t *testing.T) {
	var r Ring
	_, _, _, pos, more := r.Next(0)
	go r.Write(Console, []byte("x"))
	testutil.Wait(t, more, "the next words")
	if _, data, _, _, _ := r.Next(pos); string(data) != "x" {
		t.Errorf("Next = %q; want x", data)
	}
}

// TestRingAllocates: a full ring costs a guest that prints no memory.
func TestRingAllocates(t *testing.T) {
	var r Ring
	line := []byte("a line of a guest's\n")
	for range RingSize {
		r.Write(Console, line)
	}
	if n := testing.AllocsPerRun(1000, func() { r.Write(Console, line); r.Write(Monitor, line) }); n != 0 {
		t.Errorf("Write allocates %v times; want 0", n)
	}
}

// FuzzRing compares the ring with all that was ever written.
func FuzzRing(f *testing.F) {
	f.Add([]byte{1, 200, 3, 255, 255, 0}, uint64(3))
	f.Fuzz(func(t *testing.T, lengths []byte, pos uint64) {
		var r Ring
		var all []byte
		for i, n := range lengths {
			b := bytes.Repeat([]byte{byte('a' + i%26)}, int(n)*64)
			all = append(all, b...)
			r.Write([]Source{Console, Monitor}[i*7%3%2], b)
		}
		var got []byte
		at := min(pos, uint64(len(all)))
		for {
			_, data, lost, next, _ := r.Next(at)
			if data == nil {
				if next != uint64(len(all)) {
					t.Fatalf("the ring ends at %d; want %d", next, len(all))
				}
				break
			}
			if at+lost+uint64(len(data)) != next || len(data) > chunkSize {
				t.Fatalf("Next(%d) = %d bytes, %d lost, %d", at, len(data), lost, next)
			}
			got, at = append(got, data...), next
		}
		if !bytes.HasSuffix(all, got) || len(got) > RingSize {
			t.Errorf("the ring has %d bytes; want the last ones of %d", len(got), len(all))
		}
	})
}
