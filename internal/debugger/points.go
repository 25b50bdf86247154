package debugger

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/uvm-monitor/uvm/internal/gdb"
	"github.com/uvm-monitor/uvm/vmm"
)

// pointKey is how gdb names a breakpoint or watchpoint.
type pointKey struct {
	kind gdb.PointKind
	addr uint64
}

// point is one that is set.
type point struct {
	pointKey
	size    uint64
	planted []byte // the host's memory of an INT3; nil for other points
	saved   byte   // what the guest has there
	value   []byte // watched by page tables: what was there last
	index   int    // order in which debug registers are taken; 0 = none is
}

const (
	int3        = 0xcc
	maxPoints   = 1024
	maxHardware = 4 // DR0 to DR3
	maxWatch    = 4096
)

// exec says that the point is a breakpoint.
func (p *point) exec() bool { return p.kind <= gdb.HardwareBreak }

// dr7 are the type and length of a point in a debug register (AMD64 APM volume 2, section 13.1.1).
func (p *point) dr7() uint64 {
	if p.exec() {
		return 0
	}
	typ := uint64(1) // writes
	if p.kind == gdb.WatchAccess {
		typ = 3
	}
	return typ | map[uint64]uint64{1: 0, 2: 1, 4: 3, 8: 2}[p.size]<<2
}

// hardware are the points that are in debug registers, by number.
func (d *Debugger) hardware() (list []*point) {
	for _, p := range d.points {
		if p.index > 0 {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *point) int { return a.index - b.index })
	return list
}

// SetPoint plants a breakpoint or watchpoint.
func (d *Debugger) SetPoint(kind gdb.PointKind, thread int, addr, size uint64) error {
	return d.inspect(func(m *vmm.Machine) error {
		p := &point{pointKey: pointKey{kind, addr}, size: size}
		if old := d.points[p.pointKey]; old != nil && (p.exec() || old.size == size) {
			return nil
		} else if old != nil {
			return fmt.Errorf("another watchpoint is at %#x", addr)
		}
		if len(d.points) >= maxPoints {
			return fmt.Errorf("%d breakpoints are set: no more", maxPoints)
		}
		var err error
		switch {
		case !m.Sealed:
			err = d.setRing0(m, p, thread)
		case kind == gdb.SoftwareBreak:
			err = d.plant(m, p, thread)
		case kind == gdb.HardwareBreak:
			err = gdb.ErrUnsupported
		default:
			err = d.watch(m, p)
		}
		if err == nil {
			d.points[p.pointKey] = p
		}
		return err
	})
}

// setRing0 sets a point of a guest in ring 0, if this KVM can take its exits.
func (d *Debugger) setRing0(m *vmm.Machine, p *point, thread int) error {
	works, err := d.works()
	switch {
	case err != nil:
		return err
	case p.kind == gdb.SoftwareBreak && works.Soft:
		return d.plant(m, p, thread)
	case p.exec() && !works.Hard, !p.exec() && !works.Watch, p.kind == gdb.WatchRead:
		return gdb.ErrUnsupported
	case !p.exec() && (p.size != 1 && p.size != 2 && p.size != 4 && p.size != 8 || p.addr%p.size != 0):
		return fmt.Errorf("a watchpoint of %d bytes at %#x: debug registers have 1, 2, 4 or 8, aligned", p.size, p.addr)
	case p.exec():
		if _, err := d.hosts(m, thread, p.addr, 1); err != nil {
			return err
		}
	}
	used := d.hardware()
	if len(used) >= maxHardware {
		return fmt.Errorf("all %d debug registers are taken", maxHardware)
	}
	p.index = 1
	if n := len(used); n > 0 {
		p.index = used[n-1].index + 1
	}
	return nil
}

// plant puts an INT3 in place of the guest's instruction.
func (d *Debugger) plant(m *vmm.Machine, p *point, thread int) error {
	host, err := d.hosts(m, thread, p.addr, 1)
	if err != nil {
		return err
	}
	p.planted = host[0]
	var b [1]byte
	if err := d.mem.read(b[:], p.planted); err != nil {
		return err
	}
	p.saved = b[0]
	return d.mem.write(p.planted, []byte{int3})
}

// ClearPoint takes a point away.
func (d *Debugger) ClearPoint(kind gdb.PointKind, addr, _ uint64) error {
	return d.inspect(func(m *vmm.Machine) error { return d.clearPoint(m, pointKey{kind, addr}) })
}

func (d *Debugger) clearPoint(m *vmm.Machine, k pointKey) error {
	p := d.points[k]
	if p == nil {
		return nil
	}
	delete(d.points, k)
	if p.value != nil {
		return d.buildWatch(m)
	}
	if p.planted == nil {
		return nil
	}
	var b [1]byte
	if err := d.mem.read(b[:], p.planted); err != nil {
		return err
	}
	if b[0] != int3 {
		d.Log.Warn("gdb: the guest has overwritten a breakpoint; what it wrote stays", "address", fmt.Sprintf("%#x", k.addr), "byte", fmt.Sprintf("%#02x", b[0]))
		return nil
	}
	return d.mem.write(p.planted, []byte{p.saved})
}

// inspect calls f on the machine while it stands, with d.mu held.
func (d *Debugger) inspect(f func(*vmm.Machine) error) error {
	return d.vm.Inspect(func(m *vmm.Machine) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return f(m)
	})
}

// hosts is the host's memory behind a thread's virtual addresses; all of it is there.
func (d *Debugger) hosts(m *vmm.Machine, thread int, va, n uint64) ([][]byte, error) {
	t, err := d.mem.tables(m, m.VCPUs[thread], d.root(m))
	if err != nil {
		return nil, err
	}
	return pieces(m, t, va, n)
}

// root is the guest's own page tables, where the vCPU may be under the debugger's; 0 = the vCPU's.
func (d *Debugger) root(m *vmm.Machine) uint64 {
	if m.Sealed {
		return d.plainCR3
	}
	return 0
}

// ReadMemory reads what the guest has in memory; planted breakpoints do not show.
func (d *Debugger) ReadMemory(thread int, addr uint64, b []byte) (n int, err error) {
	err = d.inspect(func(m *vmm.Machine) error {
		t, err := d.mem.tables(m, m.VCPUs[thread], d.root(m))
		if err == nil {
			n, err = d.mem.readVirtual(m, t, addr, b)
		}
		return err
	})
	d.eachPlanted(addr, b[:n], func(p *point, at *byte) {
		if *at == int3 {
			*at = p.saved
		}
	})
	return n, err
}

// eachPlanted calls f for the breakpoints within b, which is at addr.
func (d *Debugger) eachPlanted(addr uint64, b []byte, f func(p *point, at *byte)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, p := range d.points {
		if p.planted != nil && k.addr >= addr && k.addr-addr < uint64(len(b)) {
			f(p, &b[k.addr-addr])
		}
	}
}

// WriteMemory writes all of b, or nothing. Breakpoints in it stay.
func (d *Debugger) WriteMemory(thread int, addr uint64, b []byte) error {
	b = bytes.Clone(b)
	return d.inspect(func(m *vmm.Machine) error {
		hosts, err := d.hosts(m, thread, addr, uint64(len(b)))
		if err != nil {
			return err
		}
		for k, p := range d.points {
			if at := k.addr - addr; p.planted != nil && k.addr >= addr && at < uint64(len(b)) {
				p.saved, b[at] = b[at], int3
			}
		}
		var errs []error
		for _, host := range hosts {
			errs = append(errs, d.mem.write(host, b[:len(host)]))
			b = b[len(host):]
		}
		return errors.Join(errs...)
	})
}
