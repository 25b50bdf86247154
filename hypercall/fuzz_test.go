package hypercall

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

// The fuzzer chooses the layout: a permission for each 256 bytes of
// memory, two bits each.
const (
	fuzzSize  = memory.PageSize
	fuzzBlock = 256
	secret    = 0xa5 // fills what the guest cannot read, and nothing else
)

// FuzzHypercall makes calls with any memory content, layout of permissions, EAX
// and device behaviour. Nothing panics; the answer is nil or a typed error; and
// no byte changes that the guest could not have changed itself.
//
// calls is a list of 6 bytes each: number, EAX (32 bits), behaviour. content is
// stored at the EAX of the first call, and then at multiples of 509.
func FuzzHypercall(f *testing.F) {
	rw := make([]byte, fuzzSize/fuzzBlock/4)
	for i := range rw {
		rw[i] = 0xff
	}
	words := func(w ...uint64) (b []byte) {
		for _, x := range w {
			b = le.AppendUint64(b, x)
		}
		return b
	}
	one := func(c Call, eax uint32, how byte) []byte {
		return append(le.AppendUint32([]byte{byte(c)}, eax), how)
	}
	for _, s := range []struct{ calls, layout, content []byte }{
		{one(Walltime, 0, 0), rw, nil},
		{one(Walltime, fuzzSize-7, 0), rw, nil},
		{one(Puts, 0, 0), rw, words(16, 100)},
		{one(Puts, 0, 3), rw, words(0, 1<<64-1)},
		{one(Poll, 0, 0), rw, words(1<<64-1, 0, 0)},
		{one(BlockWrite, 0, 0), rw, words(hDisk, 512, 64, 512, 0)},
		{one(BlockRead, 8, 0), rw, words(hDisk, 512, 8, 512, 0)}, // over itself
		{one(BlockRead, 0, 1), rw, words(hDisk, 1<<64-512, 64, 512, 0)},
		{one(BlockRead, 0, 0), []byte{0xff, 0x55, 0xaa, 0xff}, words(hDisk, 0, 900, 500, 0)},
		{one(NetWrite, 0, 1), rw, words(hNIC, 64, 1514, 0)},
		{one(NetRead, 0, 0), rw, words(hNIC, 2048, 2048, 0)},
		{one(NetRead, 0, 2), rw, words(1<<32+1, 2048, 2048, 0)},
		{one(NetRead, 0, 0), []byte{0xff, 0x5f}, words(hNIC, 1500, 1514, 0)},
		{one(Batch, 0, 0), rw, words(24, 2, 0, hDisk, 512, 200, 512, 0, 5, hDisk, 0, 200, 512, 0, 4)},
		{one(Batch, 0, 0), rw, words(24, 2, 0, hDisk, 0, 0, 104, 0, 5, hDisk, 0, 200, 512, 0, 4)}, // over itself
		{one(Batch, 0, 0), rw, words(24, 2, 0, hDisk, 0, 200, 512, 0, 5, hDisk, 0, 1<<64-1, 512, 0, 5)},
		{one(Batch, 0, 0), rw, words(24, 2, 0, hNIC, 200, 60, 0, 0, 6, hNIC, 200, 1514, 0, 0, 7)},
		{one(Batch, 0, 2), rw, words(24, 1, 0, hNIC, 200, 1514, 0, 0, 7)},
		{one(Batch, 0, 0), []byte{0xff, 0x55, 0xaa, 0xff}, words(24, 1, 0, hDisk, 0, 900, 500, 0, 5)},
		{one(Batch, 0, 1), rw, words(0, 64, 0, hDisk, 1<<64-1)},
		{one(Batch, 0, 1), rw, words(0, 1<<61+1, 0)},
		{one(HaltCall, 0, 0), rw, words(64, 255)},
		{one(HaltCall, 0, 0), rw, words(fuzzSize-511, 255)},
		{one(0, 0, 0), rw, nil},
		{append(one(NetRead, 0, 0), one(BlockRead, 32, 0)...), rw, words(hNIC, 32, 40, hDisk, 0, 0, 10, 0)},
	} {
		f.Add(s.calls, s.layout, s.content)
	}

	// The parts that take system calls are made once; WakeFD is readable, or
	// else a POLL would wait as long as it says.
	mem, err := memory.New(fuzzSize)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { mem.Close() })
	nicFD, _ := pipe(f)
	wakeFD, wake := pipe(f)
	signal(f, wake)

	f.Fuzz(func(t *testing.T, calls, layout, content []byte) {
		host := mem.Host()
		clear(host)
		view, perms := memory.NewView(mem), [fuzzSize / fuzzBlock]memory.Perm{}
		for i := range perms {
			if i/4 < len(layout) {
				perms[i] = memory.Perm(layout[i/4]>>(i%4*2)) & memory.ReadWrite
			}
			if err := view.Grant(memory.Addr(i*fuzzBlock), memory.Addr((i+1)*fuzzBlock), perms[i]); err != nil {
				t.Fatal(err)
			}
		}
		for at := 509; at < fuzzSize; at += 509 {
			copy(host[at:], content)
		}
		if len(calls) >= 6 {
			copy(host[le.Uint32(calls[1:])%fuzzSize:], content)
		}
		nic, disk, console := &fakeNIC{fd: nicFD, in: make([]byte, 1514)}, &fakeDisk{size: 2048, fill: 0xdd}, &fakeConsole{}
		for i := range nic.in {
			nic.in[i] = 0xee
		}
		cfg := Config{View: view, Console: console, WakeFD: wakeFD, HasBatch: true}
		cfg.NICs[hNIC], cfg.Disks[hDisk] = nic, disk
		cfg.HostError = func(_ string, _ int, _ string, err syscall.Errno) {
			if err == 0 {
				t.Error("HostError was told of errno 0")
			}
		}
		table := New(cfg)

		before := make([]byte, fuzzSize)
		for n := 0; len(calls) >= 6 && n < 8; n, calls = n+1, calls[6:] {
			how := calls[5]
			nic.readErr = []syscall.Errno{0, syscall.EIO, syscall.EAGAIN, syscall.EBADFD}[how&3]
			nic.writeErr = []syscall.Errno{0, syscall.EIO, 0, syscall.EAGAIN}[how>>2&3]
			disk.err = []syscall.Errno{0, syscall.EIO, 0, syscall.ENOSPC}[how>>4&3]
			console.err = []error{nil, syscall.EPIPE, io.ErrShortWrite, syscall.EIO}[how&3]
			size := 4
			if how>>6 == 3 {
				size = 1 + int(how>>2&3)
			}
			for i, b := range host {
				if perms[i/fuzzBlock]&memory.Read == 0 {
					host[i] = secret
				} else if b == secret {
					host[i] = 0
				}
			}
			copy(before, host)
			err := table.PortOut(PortBase+uint16(calls[0]), size, calls[1:5])
			if !typed(err) {
				t.Fatalf("hypercall %d at %#x = %T %v; want nil or a typed error", calls[0], le.Uint32(calls[1:]), err, err)
			}
			for i := range host {
				if host[i] != before[i] && perms[i/fuzzBlock]&memory.Write == 0 {
					t.Fatalf("hypercall %d at %#x changed the byte at %#x, which the guest cannot write", calls[0], le.Uint32(calls[1:]), i)
				}
			}
			// A batch is single calls: those before the one that ends the guest count.
			if err != nil && Call(calls[0]) != Batch && string(host) != string(before) {
				t.Fatalf("hypercall %d at %#x ended the guest with %v and changed memory", calls[0], le.Uint32(calls[1:]), err)
			}
			// Nor is a byte handed out that the guest could not read itself:
			// those bytes carry a mark of their own, see below.
			for _, b := range [][]byte{console.got, disk.got, nic.out} {
				if bytes.IndexByte(b, secret) >= 0 {
					t.Fatalf("hypercall %d at %#x handed out memory that the guest cannot read", calls[0], le.Uint32(calls[1:]))
				}
			}
		}
	})
}

// typed says whether err is nil or one of the errors of this interface.
func typed(err error) bool {
	var (
		pointer *PointerError
		call    *InvalidCallError
		halt    *Halt
		console *ConsoleError
		port    *devices.PortError
	)
	return err == nil || errors.As(err, &pointer) || errors.As(err, &call) || errors.As(err, &halt) ||
		errors.As(err, &console) || errors.As(err, &port) || err == devices.ErrInterrupted
}
