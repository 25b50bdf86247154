package debugger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/uvm-monitor/uvm/internal/paging"
	"github.com/uvm-monitor/uvm/memory"
	"github.com/uvm-monitor/uvm/vmm"
)

var errNoMemory = errors.New("nothing is mapped there")

// physical is n bytes of guest-physical memory, as a slice of the host's mapping, which may be protected.
func physical(m *vmm.Machine, gpa, n uint64) ([]byte, bool) {
	if m.Tables != nil && gpa >= uint64(m.TablesAt) {
		b, err := m.Tables.At(memory.Addr(gpa)-m.TablesAt, n)
		return b, err == nil
	}
	b, err := m.Memory.At(memory.Addr(gpa), n)
	return b, err == nil
}

// tables are the page tables of a vCPU as the guest has them. cr3 is in place of the vCPU's own if it is not 0.
func (h *hostMemory) tables(m *vmm.Machine, v *vmm.VCPU, cr3 uint64) (*paging.Tables, error) {
	s, err := v.Sregs()
	if err != nil {
		return nil, err
	}
	if cr3 != 0 {
		s.CR3 = cr3
	}
	return &paging.Tables{CR0: s.CR0, CR3: s.CR3, CR4: s.CR4, EFER: s.EFER, Read: func(gpa uint64) (uint64, bool) {
		var w [8]byte
		host, ok := physical(m, gpa, 8)
		ok = ok && h.read(w[:], host) == nil
		return binary.LittleEndian.Uint64(w[:]), ok
	}}, nil
}

// pieces are the host's memory behind n bytes at va, page by page, as far as there is memory; err says what is at their end.
func pieces(m *vmm.Machine, t *paging.Tables, va, n uint64) (hosts [][]byte, err error) {
	for n > 0 {
		p, ok, err := t.Find(va)
		if err == nil && !ok {
			err = fmt.Errorf("%#x: %w", va, errNoMemory)
		}
		if err != nil {
			return hosts, err
		}
		k := min(n, p.VA+p.Size-va, 4096-va%4096)
		host, ok := physical(m, p.GPA+(va-p.VA), k)
		if !ok {
			return hosts, fmt.Errorf("%#x: physical address %#x is no memory", va, p.GPA+(va-p.VA))
		}
		hosts, va, n = append(hosts, host), va+k, n-k
	}
	return hosts, nil
}

// readVirtual copies from va to b as far as it can.
func (h *hostMemory) readVirtual(m *vmm.Machine, t *paging.Tables, va uint64, b []byte) (n int, err error) {
	hosts, err := pieces(m, t, va, uint64(len(b)))
	for _, host := range hosts {
		if e := h.read(b[n:n+len(host)], host); e != nil {
			return n, e
		}
		n += len(host)
	}
	return n, err
}
