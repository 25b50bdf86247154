package gdb

import (
	"cmp"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
)

// handle carries out one packet ("Packets", in the protocol's own order of things) and returns the answer, "" for what
// the server does not know. wait says that the answer comes when the machine stops.
func (ss *session) handle(data []byte) (answer string, wait bool) {
	if len(data) == 0 {
		return "", false
	}
	rest := string(data[1:])
	if ss.gone && !strings.ContainsRune("?qQDkv", rune(data[0])) {
		return "E03", false // ESRCH
	}
	switch data[0] {
	case '?':
		return ss.stopReply(), false
	case 'g':
		return ss.registers(), false
	case 'G':
		return ss.setRegisters(rest), false
	case 'p':
		return ss.register(rest), false
	case 'P':
		return ss.setRegister(rest), false
	case 'm':
		return ss.readMemory(rest), false
	case 'M', 'X':
		return ss.writeMemory(data[0] == 'X', rest), false
	case 'Z', 'z':
		return ss.point(data[0] == 'Z', rest), false
	case 'H':
		return ss.setThread(rest), false
	case 'T':
		if n, err := threadID(rest); err != nil || n < 1 || n > ss.Target.Threads() {
			return "E03", false
		}
		return "OK", false
	case 'c', 'C', 's', 'S':
		return ss.resumeOld(data[0], rest)
	case 'v':
		return ss.verbose(rest)
	case 'q', 'Q':
		return ss.query(string(data)), false
	case 'D':
		ss.done = true
		return "OK", false
	case 'k':
		ss.kill()
		return "", false
	}
	return "", false
}

func (ss *session) kill() {
	ss.done = true
	if !ss.gone {
		ss.gone = true
		ss.Target.Kill()
	}
}

const errInvalid = "E22" // EINVAL

// fault is the answer to err, if it is one.
func fault(err error) string {
	switch {
	case err == nil:
		return "OK"
	case errors.Is(err, ErrUnsupported):
		return ""
	}
	return "E14" // EFAULT
}

func (ss *session) registers() string {
	r, err := ss.Target.Registers(ss.general)
	if err != nil {
		return fault(err)
	}
	return hex.EncodeToString(r.encode())
}

func (ss *session) setRegisters(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) > registersSize() {
		return errInvalid
	}
	return ss.changeRegisters(func(r *Registers) { r.decode(b) })
}

func (ss *session) changeRegisters(change func(*Registers)) string {
	r, err := ss.Target.Registers(ss.general)
	if err == nil {
		change(&r)
		err = ss.Target.SetRegisters(ss.general, &r)
	}
	return fault(err)
}

func (ss *session) register(s string) string {
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil || n >= uint64(len(registers())) {
		return errInvalid
	}
	r, err := ss.Target.Registers(ss.general)
	if err != nil {
		return fault(err)
	}
	return hex.EncodeToString(r.encode()[registers()[n].offset:][:registers()[n].size])
}

func (ss *session) setRegister(s string) string {
	number, value, _ := strings.Cut(s, "=")
	n, err := strconv.ParseUint(number, 16, 32)
	b, err2 := hex.DecodeString(value)
	if err != nil || err2 != nil || n >= uint64(len(registers())) || len(b) != registers()[n].size {
		return errInvalid
	}
	return ss.changeRegisters(func(r *Registers) {
		all := r.encode()
		copy(all[registers()[n].offset:], b)
		r.decode(all)
	})
}

// addrLen parses ADDR,LEN.
func addrLen(s string) (addr, n uint64, ok bool) {
	a, l, _ := strings.Cut(s, ",")
	addr, err1 := strconv.ParseUint(a, 16, 64)
	n, err2 := strconv.ParseUint(l, 16, 64)
	return addr, n, err1 == nil && err2 == nil
}

func (ss *session) readMemory(s string) string {
	addr, n, ok := addrLen(s)
	if !ok {
		return errInvalid
	}
	b := make([]byte, min(n, maxPacket/2))
	got, err := ss.Target.ReadMemory(ss.general, addr, b)
	if got == 0 && n > 0 {
		return fault(cmp.Or(err, errNoMemory))
	}
	return hex.EncodeToString(b[:got])
}

var errNoMemory = errors.New("no memory there")

func (ss *session) writeMemory(binary bool, s string) string {
	head, value, found := strings.Cut(s, ":")
	addr, n, ok := addrLen(head)
	b := []byte(value)
	if !binary {
		var err error
		if b, err = hex.DecodeString(value); err != nil {
			return errInvalid
		}
	}
	switch {
	case !ok || !found || uint64(len(b)) != n:
		return errInvalid
	case n == 0: // gdb asks so whether X is known
		return "OK"
	case ss.noBreak && n == 1 && b[0] == breakpoint:
		// gdb plants breakpoints by itself where the target has none. They would not stop this machine, but end it.
		return "E01" // EPERM
	}
	return fault(ss.Target.WriteMemory(ss.general, addr, b))
}

// breakpoint is INT3.
const breakpoint = 0xcc

// point is Z and z: TYPE,ADDR,KIND. KIND is a watchpoint's length in bytes.
func (ss *session) point(set bool, s string) string {
	t, where, _ := strings.Cut(s, ",")
	where, _, _ = strings.Cut(where, ";") // conditions, which gdb was not told to send
	kind, err := strconv.ParseUint(t, 16, 8)
	addr, size, ok := addrLen(where)
	switch {
	case err == nil && kind > uint64(WatchAccess):
		return ""
	case err != nil || !ok:
		return errInvalid
	case !set:
		return fault(ss.Target.ClearPoint(PointKind(kind), addr, size))
	}
	err = ss.Target.SetPoint(PointKind(kind), ss.general, addr, size)
	if kind == uint64(SoftwareBreak) && errors.Is(err, ErrUnsupported) {
		ss.noBreak = true
	}
	return fault(err)
}

// threadID parses a thread's number, which gdb counts from 1; 0 is any, -1 all.
func threadID(s string) (int, error) {
	n, err := strconv.ParseInt(s, 16, 32)
	return int(n), err
}

func (ss *session) setThread(s string) string {
	if s == "" {
		return errInvalid
	}
	n, err := threadID(s[1:])
	if err != nil || n < -1 || n > ss.Target.Threads() {
		return errInvalid
	}
	switch s[0] {
	case 'g':
		ss.general = max(n-1, 0)
	case 'c':
		ss.next = max(n-1, -1)
	default:
		return errInvalid
	}
	return "OK"
}

// resumeOld is c, C, s and S, of gdbs that do not use vCont: [SIGNAL;][ADDR]. A machine takes no signals.
func (ss *session) resumeOld(op byte, s string) (string, bool) {
	if op == 'C' || op == 'S' {
		_, s, _ = strings.Cut(s, ";")
	}
	thread := ss.next
	if s != "" {
		addr, err := strconv.ParseUint(s, 16, 64)
		if err != nil {
			return errInvalid, false
		}
		if a := ss.changeRegisters(func(r *Registers) { r.RIP = addr }); a != "OK" {
			return a, false
		}
	}
	modes := make([]Mode, ss.Target.Threads())
	for i := range modes {
		modes[i] = Run
	}
	if op == 's' || op == 'S' {
		modes[max(thread, 0)] = Step
	}
	return ss.resume(modes)
}

func (ss *session) resume(modes []Mode) (string, bool) {
	if err := ss.Target.Resume(modes); err != nil {
		return "E01", false
	}
	ss.running = true
	return "", true
}

// verbose is the packets that begin with v.
func (ss *session) verbose(s string) (string, bool) {
	switch {
	case s == "Cont?":
		return "vCont;c;C;s;S", false
	case strings.HasPrefix(s, "Cont;"):
		if ss.gone {
			return "E03", false
		}
		return ss.vCont(s[len("Cont;"):])
	case strings.HasPrefix(s, "Kill"):
		ss.kill()
		return "OK", false
	}
	return "", false
}

// vCont is ACTION[:THREAD][;…]; for each thread the first action that fits counts.
func (ss *session) vCont(s string) (string, bool) {
	modes := make([]Mode, ss.Target.Threads())
	decided := make([]bool, len(modes))
	active := false
	for action := range strings.SplitSeq(s, ";") {
		what, who, one := strings.Cut(action, ":")
		var mode Mode
		switch {
		case what == "":
			return errInvalid, false
		case what[0] == 'c' || what[0] == 'C':
			mode = Run
		case what[0] == 's' || what[0] == 'S':
			mode = Step
		default:
			return errInvalid, false
		}
		n := -1
		if one {
			var err error
			if n, err = threadID(who); err != nil || n < -1 || n > len(modes) {
				return errInvalid, false
			}
			if n == 0 { // any
				n = 1
			}
		}
		for i := range modes {
			if (n == -1 || n == i+1) && !decided[i] {
				modes[i], decided[i], active = mode, true, true
			}
		}
	}
	if !active {
		return errInvalid, false
	}
	return ss.resume(modes)
}
