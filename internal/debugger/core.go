package debugger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/uvm-monitor/uvm/internal/corefile"
	"github.com/uvm-monitor/uvm/internal/paging"
	"github.com/uvm-monitor/uvm/vmm"
)

// Crash is a VM that has ended, or stands, to be looked into: how Run returned, and the kernel's path and arguments.
type Crash struct {
	Kernel string
	Args   []string
	Result vmm.Result
	Err    error
}

// snapshot is what is known of a machine that stands. The registers are copies.
type snapshot struct {
	m    vmm.Machine
	cpus []cpu
	mem  *hostMemory
}

func (c *Crash) snapshot(vm *vmm.VM) (*snapshot, error) {
	mem, err := openHostMemory()
	if err != nil {
		return nil, err
	}
	s := &snapshot{mem: mem}
	err = vm.Inspect(func(m *vmm.Machine) error {
		s.m = *m
		for _, v := range m.VCPUs {
			one, err := readCPU(v)
			if err != nil {
				return err
			}
			s.cpus = append(s.cpus, one)
		}
		return nil
	})
	if err != nil {
		mem.file.Close()
		return nil, err
	}
	r := &s.cpus[0].regs
	var fault *vmm.GuestError
	if errors.As(c.Err, &fault) {
		*r = fault.Regs
		r.RIP = fault.RIP
	} else if t := c.Result.Trap; t != nil {
		r.RIP, r.RSP, r.RFLAGS = t.RIP, t.RSP, t.RFLAGS
	}
	return s, nil
}

// signal is why the guest ended.
func (c *Crash) signal() int {
	var fault *vmm.GuestError
	switch {
	case errors.As(c.Err, &fault):
		return Signal(fault)
	case c.Result.Trap != nil:
		return sigSegv
	case c.Result.Status&0xff == 255:
		return sigAbrt
	}
	return 0
}

// Abnormal says that the guest has ended as one with a bug does: by a fault, a trap of its own that it reports, or an abort.
func (c *Crash) Abnormal() bool { return c.signal() != 0 }

// Dump writes a core file of a VM that stands, and returns its path. The VM may go on, or end, meanwhile; the file is
// then a mixture.
func (c *Crash) Dump(vm *vmm.VM, dir, name string) (string, error) {
	s, err := c.snapshot(vm)
	if err != nil {
		return "", err
	}
	defer s.mem.file.Close()
	core := &corefile.Core{Name: filepath.Base(c.Kernel), Args: strings.Join(c.Args, " ")}
	for i := range s.cpus {
		t := corefile.Thread{Regs: s.cpus[i].user(), XSave: s.cpus[i].xsave[:]}
		if i == 0 {
			t.Signal = c.signal()
		}
		core.Threads = append(core.Threads, t)
	}
	maps, err := os.Open("/proc/self/pagemap")
	if err == nil {
		defer maps.Close()
	} else {
		maps = nil // every page is looked at
	}
	for _, r := range s.m.Memory.Ranges() {
		core.Memory = append(core.Memory, corefile.Range{GPA: uint64(r.Start), Size: uint64(len(r.Host)), Source: &source{s.mem, maps, r.Host}})
	}
	if core.Maps, err = s.maps(); err != nil {
		return "", err
	}
	return corefile.Save(dir, name, core)
}

// maps are where memory is seen: an hvt guest has it one to one, and others have what the page tables of the first vCPU say.
func (s *snapshot) maps() (maps []corefile.Map, err error) {
	plain := []corefile.Map{{Size: s.m.Memory.Size()}}
	if !s.m.PC {
		return plain, nil
	}
	t := &paging.Tables{CR0: s.cpus[0].sregs.CR0, CR3: s.cpus[0].sregs.CR3, CR4: s.cpus[0].sregs.CR4, EFER: s.cpus[0].sregs.EFER}
	t.Read = paging.Reader(func(gpa, n uint64) ([]byte, bool) { return physical(&s.m, gpa, n) }) // a PC's memory is not protected
	err = t.Each(func(m paging.Mapping) bool {
		maps = append(maps, corefile.Map{VA: m.VA, GPA: m.GPA, Size: m.Size})
		return len(maps) < corefile.MaxMaps
	})
	var mode *paging.ModeError
	if errors.As(err, &mode) || errors.Is(err, paging.ErrTooMany) || len(maps) == 0 {
		return plain, nil
	}
	return maps, err
}

// source is guest memory for a core file.
type source struct {
	mem  *hostMemory
	maps *os.File // of /proc/self/pagemap; nil = unknown
	host []byte
}

func (s *source) ReadAt(b []byte, off int64) (int, error) {
	return len(b), s.mem.read(b, s.host[off:])
}

// Next finds pages that were touched: those that are in memory, or swapped out (Linux, Documentation/admin-guide/mm/pagemap.rst).
func (s *source) Next(off uint64) (start, end uint64, ok bool) {
	size := uint64(len(s.host))
	if off >= size || s.maps == nil {
		return off, size, off < size
	}
	const page, touched, batch = 4096, 3 << 62, 4096
	var words [8 * batch]byte
	for ; off < size; off += batch * page {
		n := min(batch, (size-off)/page)
		if _, err := s.maps.ReadAt(words[:8*n], (address(s.host)+int64(off))/page*8); err != nil {
			return off, size, true
		}
		for i := range n {
			is := le.Uint64(words[8*i:])&touched != 0
			if is && !ok {
				start, ok = off+i*page, true
			} else if !is && ok {
				return start, off + i*page, true
			}
		}
		if ok {
			return start, off + n*page, true
		}
	}
	return size, size, false
}

// DumpRunning stops a VM, writes a core file and lets it go on, if it was not paused before.
func DumpRunning(ctx context.Context, vm *vmm.VM, kernel string, args []string, dir, name string) (string, error) {
	err := vm.Pause(ctx)
	var state *vmm.StateError
	if errors.As(err, &state) && state.From == vmm.Paused {
		err = nil
	} else if err == nil {
		defer vm.Resume()
	}
	if err != nil {
		return "", fmt.Errorf("core file: %w", err)
	}
	return (&Crash{Kernel: kernel, Args: args}).Dump(vm, dir, name)
}
