package corefile

import "strings"

// Types of notes (Linux, include/uapi/linux/elf.h).
const (
	ntPRStatus = 1
	ntFPRegs   = 2
	ntPRPSInfo = 3
	ntXState   = 0x202
)

// prStatus is struct elf_prstatus.
type prStatus struct {
	Signo, Code, Errno   int32 // elf_siginfo
	Cursig               int16
	_                    int16
	Pending, Held        uint64
	PID, PPID, PGRP, SID int32
	_                    [4][2]uint64 // times
	Regs                 UserRegs
	FPValid              int32
	_                    int32
}

// prPSInfo is struct elf_prpsinfo.
type prPSInfo struct {
	State, Sname, Zombie, Nice byte
	_                          uint32
	Flag                       uint64
	UID, GID                   uint32
	PID, PPID, PGRP, SID       int32
	Name                       [16]byte
	Args                       [80]byte
}

// note appends one note, with its parts at multiples of 4 bytes.
func note(b []byte, name string, typ uint32, desc []byte) []byte {
	b = encode(b, [...]uint32{uint32(len(name) + 1), uint32(len(desc)), typ})
	for _, part := range [][]byte{append([]byte(name), 0), desc} {
		b = append(b, part...)
		b = append(b, make([]byte, -len(part)&3)...)
	}
	return b
}

// notes are what gdb wants to know of threads, in the order in which Linux writes them. Threads are numbered from 1.
func (c *Core) notes() (b []byte) {
	info := prPSInfo{Sname: 'R', PID: 1}
	copy(info.Name[:15], c.Name)
	copy(info.Args[:79], strings.TrimSpace(c.Name+" "+c.Args))
	for i, t := range c.Threads {
		s := prStatus{Signo: int32(t.Signal), Cursig: int16(t.Signal), PID: int32(i + 1), Regs: t.Regs}
		if len(t.XSave) >= xsaveHeaderEnd {
			s.FPValid = 1
		}
		s.Regs.OrigRAX = ^uint64(0) // not in a system call
		b = note(b, "CORE", ntPRStatus, encode(nil, s))
		if i == 0 {
			b = note(b, "CORE", ntPRPSInfo, encode(nil, info))
		}
		if s.FPValid != 0 {
			b = note(b, "CORE", ntFPRegs, t.XSave[:512])
			b = note(b, "LINUX", ntXState, xstate(t.XSave))
		}
	}
	return b
}

const (
	xsaveHeaderEnd = 576
	xsaveAVXEnd    = xsaveHeaderEnd + 256 // the upper halves of the YMM registers
	xsaveXCR0      = 464                  // where Linux tells a reader which components there are
)

// xstate is the part of an XSAVE area that every gdb knows: x87, SSE and AVX.
func xstate(x []byte) []byte {
	b := make([]byte, xsaveAVXEnd)
	copy(b, x)
	const known = 7
	b[xsaveXCR0], b[512] = known, b[512]&known
	clear(b[xsaveXCR0+1 : xsaveXCR0+8])
	clear(b[513:520])
	return b
}
