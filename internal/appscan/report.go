package appscan

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReportSize is the most that a report has, in bytes; it is a multiple of a disk's block.
const ReportSize = 1 << 17

// reportVersion begins a report. guests/init/trace.h writes it, and describes the format.
const reportVersion = "uvm-trace 1"

// Report is what a run of the application asked of the kernel. The guest wrote
// it: every record is of a form that is known, in printable ASCII, and no more is true of it.
type Report struct {
	Ended  bool // the program ended by itself, and the report is whole
	Status int  // with that
	Full   bool // there was more
	has    map[string]bool
}

// ErrNoReport says that the guest did not get as far as the program.
var ErrNoReport = errors.New("the guest left no report")

// ParseReport reads what the guest has left on the report's disk. A last record
// that is cut short does not count.
func ParseReport(b []byte) (*Report, error) {
	if len(b) > ReportSize {
		return nil, fmt.Errorf("the guest's report has %d bytes; at most %d are read", len(b), ReportSize)
	}
	r := &Report{has: map[string]bool{}}
	for at := 0; ; {
		record, rest, whole := bytes.Cut(b[at:], []byte{0})
		switch {
		case len(record) == 0 && len(bytes.Trim(rest, "\x00")) > 0:
			return nil, fmt.Errorf("the guest's report is damaged at byte %d: something stands behind its end", at)
		case len(record) == 0 && at == 0:
			return nil, ErrNoReport
		case len(record) == 0 || !whole:
			return r, nil
		case at == 0 && string(record) != reportVersion:
			return nil, errors.New("the guest's report is not of the version that is known: is uvm-init as new as uvm-lupine?")
		case at > 0 && (r.Ended || !r.add(string(record))):
			return nil, fmt.Errorf("the guest's report is damaged at byte %d: %.40q", at, record)
		}
		at += len(record) + 1
	}
}

// add checks a record and notes it.
func (r *Report) add(s string) bool {
	kind, text := s[0], s[1:]
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	ok := len(text) > 0 && len(text) < 256
	switch kind {
	case 'c', 'n':
		_, ok = number(text, 1023)
	case 'a', 'r':
		call, value, dot := strings.Cut(text, ".")
		_, ok1 := number(call, 1023)
		_, ok2 := number(value, 1<<32-1)
		ok = dot && ok1 && ok2
	case 'p':
		ok = ok && slices.ContainsFunc([]string{"/proc/", "/sys/", "/dev/"}, func(p string) bool { return strings.HasPrefix(text, p) })
	case 'l', 'x':
		ok = ok && text[0] == '/'
	case 'u', 'm':
	case '!':
		ok, r.Full = text == "", true
	case 'e':
		var status uint64
		status, ok = number(text, 255)
		r.Ended, r.Status = true, int(status)
	default:
		ok = false
	}
	r.has[s] = true
	return ok
}

// number reads a decimal number without needless digits.
func number(s string, most uint64) (uint64, bool) {
	v, err := strconv.ParseUint(s, 10, 64)
	return v, err == nil && v <= most && strconv.FormatUint(v, 10) == s
}

// texts are the records of a kind.
func (r *Report) texts(kind byte) []string {
	var all []string
	for _, s := range slices.Sorted(maps.Keys(r.has)) {
		if s[0] == kind {
			all = append(all, s[1:])
		}
	}
	return all
}

// Started says whether a program was started.
func (r *Report) Started() bool { return len(r.texts('x')) > 0 }

// called says whether a system call was made, and whether the run's kernel had it.
func (r *Report) called(n int) (made, there bool) {
	return r.has[fmt.Sprint("c", n)], !r.has[fmt.Sprint("n", n)]
}

// valued says the same of a system call with a value.
func (r *Report) valued(v value) (made, there bool) {
	text := fmt.Sprintf("%d.%d", v.call, v.is)
	return r.has["a"+text], !r.has["r"+text]
}

// shows is what the run shows of an option: what used it, and what only seems to.
func (r *Report) shows(o *option) (used, weak []string) {
	note := func(word string, made, there bool) {
		switch {
		case made && !there:
			weak = append(weak, word+", which the run's kernel does not have either")
		case made:
			used = append(used, word)
		}
	}
	for _, n := range o.calls {
		made, there := r.called(n)
		if made && there && atStart[n] {
			weak = append(weak, callNames[n]+", which the C library tries at each start")
			continue
		}
		note(callNames[n], made, there)
	}
	for _, f := range o.families {
		word := fmt.Sprintf("socket of family %d", f)
		made, there := r.valued(value{unix.SYS_SOCKET, uint32(f)})
		if f == unix.AF_UNIX && made && there && r.onlyNames() {
			weak = append(weak, word+", by which the C library looks for a cache of user names")
			made = false
		}
		note(word, made, there)
		made, there = r.valued(value{unix.SYS_SOCKETPAIR, uint32(f)})
		note("socketpair", made, there)
	}
	for _, v := range o.values {
		made, there := r.valued(v)
		note(v.String(), made, there)
	}
	if o.config[0] == "NAMESPACES" {
		for _, text := range r.texts('a') {
			call, bits, _ := strings.Cut(text, ".")
			v, _ := number(bits, 1<<32-1)
			if (call == fmt.Sprint(unix.SYS_CLONE) || call == fmt.Sprint(unix.SYS_UNSHARE)) && v&newNamespaces != 0 {
				note("clone or unshare of namespaces", true, !r.has["r"+text])
			}
		}
		made, there := r.called(unix.SYS_SETNS)
		note("setns", made, there)
	}
	for _, m := range o.mounts {
		note("mount of "+m, r.has["m"+m], true)
	}
	for _, prefix := range o.strings {
		for _, p := range r.texts('p') {
			switch {
			case !strings.HasPrefix(p, prefix):
			case libcFiles[p]:
				weak = append(weak, p+", which the C library reads and does without")
			default:
				used = append(used, p)
			}
		}
	}
	return used, weak
}

// String is for printing.
func (v value) String() string {
	switch v.call {
	case unix.SYS_FCNTL:
		return "a lock by fcntl"
	case unix.SYS_IOCTL:
		return fmt.Sprintf("ioctl %#x", v.is)
	case unix.SYS_PRCTL:
		return "prctl for seccomp"
	case unix.SYS_MADVISE:
		return "madvise for huge pages"
	case unix.SYS_MMAP, unix.SYS_SHMGET:
		return "memory of huge pages"
	}
	return "a multicast group"
}

// onlyNames says that Unix sockets served nothing but the C library's look for nscd.
func (r *Report) onlyNames() bool {
	sockets := r.texts('u')
	return len(sockets) > 0 && !slices.ContainsFunc(sockets, func(s string) bool { return !strings.HasSuffix(s, "/nscd/socket") })
}
