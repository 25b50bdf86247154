package trace

import (
	"fmt"
	"strings"

	"github.com/uvm-monitor/uvm/hypercall"
)

// Filter chooses records; nil lets all through.
type Filter struct {
	kinds [numKinds]bool
	calls [hypercall.NumCalls]bool
	text  string
}

// ParseFilter reads words as "hypercall,port" or "POLL,NET_READ": kinds of events and
// names of hypercalls, whose case does not matter. A "!" in front of all lets through what
// they do not name. The empty string is all.
func ParseFilter(s string) (*Filter, error) {
	f := &Filter{text: s}
	list, not := strings.CutPrefix(s, "!")
	for _, word := range strings.Split(list, ",") {
		if s != "" && !f.add(strings.TrimSpace(word)) {
			return nil, fmt.Errorf("%q is no kind of event (%s) and no hypercall (%s)", word, strings.Join(kindNames[:], ", "), strings.Join(callNames(), ", "))
		}
	}
	if not || list == "" {
		for i := range f.kinds {
			f.kinds[i] = !f.kinds[i]
		}
		for i := range f.calls {
			f.calls[i] = !f.calls[i]
		}
	}
	return f, nil
}

func (f *Filter) add(word string) bool {
	for k, name := range kindNames {
		if strings.EqualFold(word, name) {
			f.kinds[k] = true
			if Kind(k) == Hypercall {
				for c := range f.calls {
					f.calls[c] = true
				}
			}
			return true
		}
	}
	for c := range calls {
		if calls[c].size > 0 && strings.EqualFold(word, hypercall.Call(c).String()) {
			f.calls[c] = true
			return true
		}
	}
	return false
}

func callNames() (names []string) {
	for c := range calls {
		if calls[c].size > 0 {
			names = append(names, hypercall.Call(c).String())
		}
	}
	return names
}

func (f *Filter) match(r *Record) bool {
	switch {
	case f == nil:
		return true
	case r.Kind == Hypercall && int(r.Call) < len(f.calls):
		return f.calls[r.Call]
	}
	return f.kinds[r.Kind]
}

// String is what ParseFilter read.
func (f *Filter) String() string {
	if f == nil {
		return ""
	}
	return f.text
}
