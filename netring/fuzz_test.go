package netring

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

// FuzzRing has a guest write what it likes into the ring, in several rounds, and compares what
// the NICs see with a model that is written down separately. Nothing panics, a round
// makes at most 1024 calls, and only what the guest can write changes.
//
// Each round of script is a count n, n times 6 bytes that make an entry (operation,
// handle, pointer in units of 0x400 from 0, length in units of 0x100, offsets), and a byte
// that moves the tail away from where it belongs.
func FuzzRing(f *testing.F) {
	f.Add([]byte{1, 1, 1, 8, 1, 0, 0, 0})                               // a write
	f.Add([]byte{2, 2, 1, 8, 1, 0, 0, 1, 1, 9, 2, 0, 0, 0, 1, 2, 1, 8}) // a read and a write, and another
	f.Add([]byte{1, 2, 1, 4, 1, 0, 0, 0})                               // into read-only memory
	f.Add([]byte{1, 1, 1, 127, 4, 255, 255, 0})                         // across the end
	f.Add([]byte{1, 1, 1, 8, 1, 0, 0, 255})                             // too far
	f.Add(bytes.Repeat([]byte{255, 2, 63, 8, 1, 0, 1}, 300))
	f.Fuzz(func(t *testing.T, script []byte) {
		g := newGuest(t)
		script = script[:min(len(script), 4000)]
		var log, want strings.Builder
		note := func(s string, args ...any) { fmt.Fprintf(&log, s+"\n", args...) }
		for _, h := range []int{hNIC, hLast} {
			n := &fakeNIC{t: t, in: bytes.Repeat([]byte{0x5a}, 300)}
			g.r.calls.NICs[h] = logNIC{n, note, h}
		}
		low := bytes.Clone(g.mem.Host()[:dataAddr])
		next := func() (b byte) {
			if len(script) > 0 {
				b, script = script[0], script[1:]
			}
			return b
		}
		commits, dead, far := uint32(0), false, false
		for len(script) > 0 && !dead {
			n := uint32(next())
			for range n {
				op, handle, ptr, size := uint32(next()%4), uint32(next()), uint64(next())*0x400, uint32(next())*0x100
				ptr, size = ptr+uint64(next()), size+uint32(next())
				g.put(op, handle, ptr, size, g.tail)
				if op != opRead && op != opWrite || dead {
					continue
				}
				nic := handle == hNIC || handle == hLast
				least := uint64(textAddr)
				if op == opRead {
					least = dataAddr
				}
				switch end := ptr + uint64(size); {
				case !nic:
				case end > memSize || size > 0 && ptr < least:
					dead = true
				case op == opWrite:
					fmt.Fprintf(&want, "%d: write %d\n", handle, size)
				default:
					fmt.Fprintf(&want, "%d: read %d\n", handle, size)
				}
				if op == opRead && !dead {
					commits++
				}
			}
			tail := g.tail
			if away := next(); away > 0 {
				tail += slots*uint32(away) + 1
				far, dead = true, true
			}
			g.r.word(offEntryTail).Store(tail)
			err := g.r.serve()
			if (err != nil) != dead {
				t.Fatalf("serve() = %v; want an error: %v", err, dead)
			}
		}
		// Of a round that ends with such a tail nothing is carried out.
		if !strings.HasPrefix(want.String(), log.String()) || !far && (log.Len() != want.Len() || g.r.commits != commits) {
			t.Errorf("%d commits, NICs saw\n%swant %d and\n%s", g.r.commits, log.String(), commits, want.String())
		}
		if !bytes.Equal(low, g.mem.Host()[:dataAddr]) {
			t.Error("the ring wrote where the guest cannot")
		}
	})
}

// logNIC tells what it sees.
type logNIC struct {
	*fakeNIC
	note   func(string, ...any)
	handle int
}

func (n logNIC) ReadFrame(bufs [][]byte) (int, devices.Errno) {
	n.note("%d: read %d", n.handle, len(bufs[0]))
	return n.fakeNIC.ReadFrame(bufs)
}

func (n logNIC) WriteFrame(bufs [][]byte) devices.Errno {
	n.note("%d: write %d", n.handle, len(bufs[0]))
	return n.fakeNIC.WriteFrame(bufs)
}
