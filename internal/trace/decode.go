package trace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/hypercall"
)

// Line is a record in words. Its JSON is one object.
type Line struct {
	At     time.Duration `json:"t_ns"` // since the VM was made
	VCPU   int           `json:"vcpu"` // -1: a device's
	Kind   string        `json:"kind"`
	Name   string        `json:"name"` // of the hypercall, register, exception, device or exit
	Args   Args          `json:"args,omitempty"`
	Result string        `json:"result,omitempty"` // OK, AGAIN, EINVAL, EUNSPEC, interrupted, ended; of a read the value
	Failed bool          `json:"failed,omitempty"`
	Took   time.Duration `json:"took_ns"`

	text string // all but At and Took
}

// Args are named values in their order.
type Args []Arg

// Arg is a number, Hex or string with its name.
type Arg struct {
	Name  string
	Value any
}

// Hex is a number that is shown as such.
type Hex uint64

func (h Hex) String() string { return "0x" + strconv.FormatUint(uint64(h), 16) }

// MarshalText is String.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// MarshalJSON is an object.
func (a Args) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, x := range a {
		v, err := json.Marshal(x.Value)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(strconv.AppendQuote(b, x.Name), ':'), v...)
	}
	return append(b, '}'), nil
}

func (a Args) String() string {
	var b bytes.Buffer
	for i, x := range a {
		if i > 0 {
			b.WriteString(", ")
		}
		if s, ok := x.Value.(string); ok {
			fmt.Fprintf(&b, "%s=%s", x.Name, strconv.QuoteToASCII(s))
		} else {
			fmt.Fprintf(&b, "%s=%v", x.Name, x.Value)
		}
	}
	return b.String()
}

// calls says how large the structure of each hypercall is (docs/abi.md), and how to read
// its arguments and its result.
var calls = [hypercall.NumCalls]struct {
	size   uint64
	args   func(r *Record) Args
	result func(r *Record) (string, bool)
}{
	hypercall.Walltime: {8, func(*Record) Args { return nil }, func(r *Record) (string, bool) { return word(r.Ret[:], 0), false }},
	hypercall.Puts: {16, func(r *Record) Args {
		n := le.Uint64(r.Arg[8:])
		s := string(r.Data[:r.Kept])
		if n > uint64(len(s)) {
			s += "…"
		}
		return Args{{"text", s}, {"len", n}}
	}, nil},
	hypercall.Poll: {24, func(r *Record) Args { return Args{{"timeout_ns", le.Uint64(r.Arg[:])}} }, func(r *Record) (string, bool) {
		if n := le.Uint32(r.Ret[16:]); n != 0 {
			return fmt.Sprintf("%d ready, set %v", n, Hex(le.Uint64(r.Ret[8:]))), false
		}
		return "0 ready", false
	}},
	hypercall.BlockWrite: {40, func(r *Record) Args { return blockArgs(r.Arg[:]) }, blockResult},
	hypercall.BlockRead:  {40, func(r *Record) Args { return blockArgs(r.Arg[:]) }, blockResult},
	hypercall.NetWrite:   {32, func(r *Record) Args { return netArgs(r.Arg[:]) }, func(r *Record) (string, bool) { return result(r.Ret[24:]) }},
	hypercall.NetRead: {32, func(r *Record) Args { return netArgs(r.Arg[:]) }, func(r *Record) (string, bool) {
		s, failed := result(r.Ret[24:])
		if !failed {
			s += ", " + word(r.Ret[:], 16) + " bytes"
		}
		return s, failed
	}},
	hypercall.HaltCall: {16, func(r *Record) Args {
		a := Args{{"status", int32(le.Uint32(r.Arg[8:]))}}
		if cookie := le.Uint64(r.Arg[:]); cookie != 0 {
			a = append(a, Arg{"cookie", Hex(cookie)})
		}
		return a
	}, nil},
	hypercall.Batch: {24, batchArgs, func(r *Record) (string, bool) {
		s, failed := result(r.Ret[16:])
		return s + ", " + word(r.Ret[:], 8) + " done", failed
	}},
}

func word(b []byte, off int) string { return strconv.FormatUint(le.Uint64(b[off:]), 10) }

func blockArgs(b []byte) Args {
	return Args{{"handle", le.Uint64(b)}, {"offset", le.Uint64(b[8:])}, {"len", le.Uint64(b[24:])}}
}

func netArgs(b []byte) Args {
	return Args{{"handle", le.Uint64(b)}, {"len", le.Uint64(b[16:])}}
}

func blockResult(r *Record) (string, bool) { return result(r.Ret[32:]) }

func result(b []byte) (string, bool) {
	n := le.Uint32(b)
	if names := [...]string{"OK", "AGAIN", "EINVAL", "EUNSPEC"}; n < uint32(len(names)) {
		return names[n], n != 0
	}
	return strconv.Itoa(int(int32(n))), true
}

// batchArgs shows the first requests. A request that was not done has no result yet.
func batchArgs(r *Record) Args {
	n := le.Uint64(r.Arg[8:])
	a, done := Args{{"requests", n}}, le.Uint64(r.Ret[8:])
	for i := range uint64(r.Kept / requestSize) {
		b := r.Data[i*requestSize:][:requestSize]
		op, args, off := hypercall.Call(le.Uint64(b[40:])), blockArgs(b), 32
		if op == hypercall.NetWrite || op == hypercall.NetRead {
			args, off = netArgs(b), 24
		}
		s := fmt.Sprintf("%v(%v)", op, args)
		if i <= done {
			res, _ := result(b[off:])
			s += " = " + res
		}
		a = append(a, Arg{strconv.FormatUint(i, 10), s})
	}
	return a
}

// Line decodes the record.
func (r *Record) Line() Line {
	l := Line{At: r.At, VCPU: int(r.VCPU), Kind: r.Kind.String(), Took: r.Took}
	switch r.Kind {
	case Hypercall:
		r.callLine(&l)
	case Port:
		r.accessLine(&l, Hex(r.Port), [2]string{"in", "out"}, map[uint8]string{1: "b", 2: "w", 4: "l"}[r.Size], portName(r.Port))
	case MMIO:
		name := "nothing there"
		if r.Device != "" {
			name = r.Device + " " + registerName(r.Addr%virtio.MMIOSize)
		}
		r.accessLine(&l, Hex(r.Addr), [2]string{"read", "write"}, strconv.Itoa(int(r.Size)*8), name)
	case Trap:
		l.Name = vectorName(r.Port)
		l.Args = Args{{"rip", Hex(r.RIP)}, {"error", Hex(r.Code)}}
		if r.Port == vecPF {
			l.Args = append(l.Args, Arg{"address", Hex(r.CR2)})
		}
		l.text = fmt.Sprintf("trap %s(%v)", l.Name, l.Args)
	case IRQ:
		l.Name = r.Device
		l.text = "irq " + r.Device
	case Exit:
		l.Name = r.Reason
		l.text = "exit " + r.Reason
	}
	switch {
	case r.Interrupted:
		l.Result = "interrupted"
	case r.Ended:
		l.Result, l.Failed = "ended", r.Kind != Hypercall || r.Call != hypercall.HaltCall
	}
	if l.Result != "" && (r.Kind == Hypercall || r.Interrupted || r.Ended) {
		l.text += " = " + l.Result
	}
	return l
}

func (r *Record) callLine(l *Line) {
	l.Name = r.Call.String()
	if int(r.Call) >= len(calls) || calls[r.Call].size == 0 || r.Refused {
		l.Args, l.Failed = Args{{"structure", Hex(r.Addr)}}, true
	} else {
		c := &calls[r.Call]
		l.Args = c.args(r)
		if c.result != nil && !r.Interrupted && !r.Ended {
			l.Result, l.Failed = c.result(r)
		}
	}
	l.text = fmt.Sprintf("%s(%v)", l.Name, l.Args)
	if r.Call == hypercall.Puts && !r.Refused { // as in a C program
		l.text = fmt.Sprintf("PUTS(%s, %d)", strconv.QuoteToASCII(string(r.Data[:r.Kept]))+more(r), le.Uint64(r.Arg[8:]))
	}
}

func more(r *Record) string {
	if le.Uint64(r.Arg[8:]) > uint64(r.Kept) {
		return "..."
	}
	return ""
}

// accessLine is a port or MMIO access.
func (r *Record) accessLine(l *Line, at Hex, verbs [2]string, width, name string) {
	verb, arrow := verbs[0], "->"
	if r.Write {
		verb, arrow = verbs[1], "<-"
	}
	value := r.value()
	l.Name = name
	l.Args = Args{{"op", verb}, {"address", at}, {"size", r.Size}, {"value", value}}
	if r.Count != 1 {
		l.Args = append(l.Args, Arg{"count", r.Count})
	}
	if !r.Write {
		l.Result = value
	}
	l.text = fmt.Sprintf("%s%s %v %s %s", verb, width, at, arrow, value)
	if name != "" {
		l.text += " (" + name + ")"
	}
	if r.Count != 1 {
		l.text += fmt.Sprintf(", %d times", r.Count)
	}
}

// value is a number, or text where there are several bytes.
func (r *Record) value() string {
	b := r.Data[:r.Kept]
	if r.Count != 1 || r.Kept > 8 {
		s := strconv.QuoteToASCII(string(b))
		if uint64(r.Count)*uint64(r.Size) > uint64(r.Kept) {
			s += "..."
		}
		return s
	}
	s := Hex(le.Uint64(append(b[:len(b):len(b)], make([]byte, 8)...))).String()
	if r.Kind == Port && (r.Port == devices.COM1 || r.Port == devices.MarkPort) && b[0] > ' ' && b[0] < 0x7f {
		s += " '" + string(rune(b[0])) + "'"
	}
	return s
}

// Text is the line as strace would write it, without the newline. With vcpus it begins
// with the vCPU's number.
func (l *Line) Text(vcpus bool) string {
	s := fmt.Sprintf("%11.6f ", l.At.Seconds())
	if vcpus && l.VCPU >= 0 {
		s += fmt.Sprintf("vcpu%-2d ", l.VCPU)
	} else if vcpus {
		s += "dev    "
	}
	s += l.text
	if l.Kind != IRQ.String() {
		s += fmt.Sprintf(" <%v>", micro(l.Took))
	}
	return s
}

// micro is d with at most four digits.
func micro(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return strconv.FormatFloat(float64(d)/1e3, 'f', 1, 64) + "µs"
	case d < time.Second:
		return strconv.FormatFloat(float64(d)/1e6, 'f', 2, 64) + "ms"
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) + "s"
}
