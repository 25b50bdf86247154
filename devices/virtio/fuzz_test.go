package virtio

import (
	"bytes"
	"testing"

	"github.com/uvm-monitor/uvm/memory"
)

// piece is a buffer as section 2.7 defines it, from a reading of memory of its own.
type piece struct {
	addr, size uint64
	write      bool
}

// readChain follows the chain at head in a queue whose descriptor table is at 0.
func readChain(mem []byte, view *memory.View, size int, head uint16, indirect bool) (chain []piece, ok bool) {
	table, entries, inside := uint64(0), uint64(size), false
	for i, count := uint64(head), 0; i < entries; count++ {
		d := mem[table+i*descSize:][:descSize]
		p := piece{le.Uint64(d), uint64(le.Uint32(d[8:])), d[12]&descWrite != 0}
		flags := le.Uint16(d[12:])
		if flags&descIndirect != 0 {
			_, err := view.Readable(memory.Addr(p.addr), p.size)
			if !indirect || inside || flags&descNext != 0 || p.size == 0 || p.size%descSize != 0 || err != nil || count == size {
				return nil, false
			}
			table, entries, inside, i = p.addr, p.size/descSize, true, 0
			count--
			continue
		}
		access := view.Readable
		if p.write {
			access = view.Writable
		} else if len(chain) > 0 && chain[len(chain)-1].write {
			return nil, false
		}
		if _, err := access(memory.Addr(p.addr), p.size); err != nil || count == size {
			return nil, false
		}
		if p.size > 0 {
			chain = append(chain, p)
		}
		if flags&descNext == 0 {
			return chain, true
		}
		i = uint64(le.Uint16(d[14:]))
	}
	return nil, false
}

const (
	fuzzMem   = 0x4000
	fuzzAvail = 0x200 // behind 32 descriptors
	fuzzUsed  = 0x300
	fuzzRO    = 0x3000
)

// FuzzQueue pops and pushes until the guest's memory, which is the input, is
// found to be wrong or has no more chains. What Pop says is what readChain says.
func FuzzQueue(f *testing.F) {
	seed := func(size byte, avail uint16, descs ...[4]uint64) {
		b := make([]byte, fuzzUsed)
		for i, d := range descs {
			le.PutUint64(b[i*descSize:], d[0])
			le.PutUint32(b[i*descSize+8:], uint32(d[1]))
			le.PutUint16(b[i*descSize+12:], uint16(d[2]))
			le.PutUint16(b[i*descSize+14:], uint16(d[3]))
		}
		le.PutUint16(b[fuzzAvail+2:], avail)
		f.Add(size, b)
	}
	seed(3, 1, [4]uint64{0x1000, 16, descNext, 1}, [4]uint64{0x2000, 8, descWrite, 0})
	seed(3|8, 2, [4]uint64{0x1000, 16, 0, 0})
	seed(3|8|16, 1, [4]uint64{0x10, 48, descIndirect, 0}, [4]uint64{0x1000, 16, descNext, 2}, [4]uint64{0x1000, 16, descNext, 1}, [4]uint64{0x1000, 16, descWrite, 1})
	seed(1|8, 1, [4]uint64{0, 32, descIndirect, 0})
	seed(5, 1, [4]uint64{0x1000, 16, descNext, 0})
	seed(2, 1, [4]uint64{fuzzRO, 16, descWrite, 0})
	seed(0, 1, [4]uint64{1<<64 - 1, 2, 0, 0})
	seed(4, 17, [4]uint64{})
	seed(4, 16, [4]uint64{fuzzMem, 0, 0, 0})
	seed(4, 4, [4]uint64{fuzzAvail, 64, descWrite, 0}) // the device may write over the ring

	mem, err := memory.New(fuzzMem)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { mem.Close() })
	view := memory.NewView(mem)
	view.Grant(0, fuzzRO, memory.ReadWrite)
	view.Grant(fuzzRO, fuzzMem-0x800, memory.Read)
	view.Grant(fuzzMem-0x800, fuzzMem, memory.Write)

	f.Fuzz(func(t *testing.T, how byte, image []byte) {
		host := mem.Host()
		clear(host)
		copy(host, image)
		size := 1 << min(how&7, 5)
		features := uint64(how) >> 3 & 3 << 28
		q, err := NewQueue(view, uint16(size), 0, fuzzAvail, fuzzUsed, features)
		if err != nil {
			t.Fatal(err)
		}
		var c Chain
		for range 100 { // a chain may write to the ring and make itself available again
			avail := le.Uint16(host[fuzzAvail+2:])
			waiting := avail - q.Next
			head := le.Uint16(host[fuzzAvail+4+2*int(q.Next%uint16(size)):])
			want, valid := readChain(host, view, size, head, features&FeatureIndirectDesc != 0)
			ok, err := q.Pop(&c)
			if waiting == 0 || int(waiting) > size || !valid {
				if ok != (waiting != 0 && int(waiting) <= size) || (err == nil) != (waiting == 0) {
					t.Fatalf("Pop with %d waiting, chain valid %v = %v, %v", waiting, valid, ok, err)
				}
				return
			}
			if !ok || err != nil || c.Head != head || len(c.Out)+len(c.In) != len(want) || len(want) > size {
				t.Fatalf("Pop = %v, %v with %+v; want head %d and %v", ok, err, c, head, want)
			}
			for i, b := range append(c.Out[:len(c.Out):len(c.Out)], c.In...) {
				if w := want[i]; uint64(len(b)) != w.size || &b[0] != &host[w.addr] || w.write != (i >= len(c.Out)) {
					t.Fatalf("buffer %d has %d bytes; want those of %+v", i, len(b), w)
				}
			}
			q.Push(c.Head, copyChain(&c))
			q.interrupt()
		}
	})
}

// FuzzMMIO has the input drive each kind of device: register accesses, stores to
// memory, rounds, and moves by saved state. Nothing panics or goes on for ever,
// what is read-only stays as it is, and a reset always gives a device that works.
//
// An operation is a byte for its kind, two for an offset, four for a value.
func FuzzMMIO(f *testing.F) {
	op := func(kind byte, off uint16, v uint32) []byte {
		return le.AppendUint32(le.AppendUint16([]byte{kind}, off), v)
	}
	const write, read, store, serve, reload, start = 0, 1, 2, 3, 4, 5
	chain := bytes.Join([][]byte{
		op(start, 0, 0), op(store, 0, uint32(bufBase)), op(store, 8, 16), op(store, 12, descWrite), op(store, uint16(availBase), 1<<16), op(serve, 0, 0),
	}, nil)
	for kind := range kinds {
		for _, seed := range [][]byte{
			chain,
			append(bytes.Clone(chain), bytes.Join([][]byte{op(reload, 0, 0), op(write, regInterruptACK, 1), op(write, regStatus, 0), op(start, 1, 0), op(serve, 0, 0)}, nil)...),
			bytes.Join([][]byte{op(start, 1, 0), op(store, uint16(availBase), 9<<16), op(serve, 0, 0), op(reload, 0, 0), op(read, regStatus, 4)}, nil),
			bytes.Join([][]byte{op(write, regQueueSel, 9), op(write, regQueueNum, 9), op(write, regQueueReady, 1), op(write, regStatus, 15), op(reload, 0, 0), op(read, regConfig+3, 8)}, nil),
			bytes.Join([][]byte{op(start, 0, 0), op(write, regQueueSel, 0), op(write, regQueueReady, 0), op(serve, 0, 0), op(reload, 0, 0)}, nil),
		} {
			f.Add(byte(kind), seed)
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, ops []byte) {
		k := kinds[int(kind)%len(kinds)]
		fresh := k.make
		g := newGuest(t, fresh())
		for n := 0; len(ops) >= 7 && n < 64; n, ops = n+1, ops[7:] {
			off, v := uint64(le.Uint16(ops[1:])), le.Uint32(ops[3:])
			switch ops[0] % 6 {
			case write:
				g.m.Write(off, ops[3:7-ops[0]/6%8/5]) // 4 bytes mostly, or 3
			case read:
				g.m.Read(off, make([]byte, v%17))
			case store:
				copy(g.at(memory.Addr(off), 4), ops[3:7])
			case serve:
				rounds := 0
				for timeout := 0; timeout == 0; rounds++ {
					if timeout, _ = g.m.Serve(); rounds > 2000 {
						t.Fatal("Serve has more to do for ever")
					}
				}
			case reload:
				g.reload(fresh())
			case start:
				g.start(uint64(off) & 3 << 28)
			}
			status := g.get(regStatus)
			if status&^(driverBits|statusNeedsReset) != 0 || g.get(regMagic) != 0x74726976 || g.get(regInterruptStatus) > 3 {
				t.Fatalf("status %#x, interrupt status %#x, magic %#x", status, g.get(regInterruptStatus), g.get(regMagic))
			}
			if needs := status&statusNeedsReset != 0; needs && g.m.q != nil {
				t.Fatal("a device that needs a reset keeps its queues")
			}
		}
		if b := g.at(readOnly, memory.PageSize); !bytes.Equal(b, make([]byte, memory.PageSize)) {
			t.Error("a device writes to what is read-only")
		}
		g.reload(fresh())
		drivers := g.start(FeatureEventIdx)
		last := drivers[len(drivers)-1]
		k.request(last)
		g.serve()
		if _, _, ok := last.Done(); !ok {
			t.Error("the device does not work after a reset")
		}
	})
}
