package appscan

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// text is a fragment that is being written. Names in files and in a run are a stranger's: no line
// break in them begins a line here.
type text struct{ strings.Builder }

// line writes a line.
func (b *text) line(format string, args ...any) {
	b.WriteString(strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, fmt.Sprintf(format, args...)))
	b.WriteByte('\n')
}

// ask writes an option below its reasons.
func (b *text) ask(o *option, reasons ...string) {
	b.line("")
	for _, r := range reasons {
		b.line("# %s", r)
	}
	for _, c := range o.config {
		b.line("CONFIG_%s=y", c)
	}
}

// doubt writes an option that is not asked for.
func (b *text) doubt(o *option, reason string) {
	b.line("#? CONFIG_%s: %s", strings.Join(o.config, ", CONFIG_"), reason)
}

// part writes what another text has, below a heading.
func (b *text) part(heading string, from *text) {
	if from.Len() > 0 {
		b.line("")
		b.line("# %s", heading)
		b.WriteString(from.String())
	}
}

func head(title []string) *text {
	b := &text{}
	b.line("# on: lupine-base")
	b.line("#")
	for _, t := range title {
		b.line("# %s", t)
	}
	return b
}

// remarked is a reason and what else there is to say of an option.
func (o *option) remarked(words []string) string {
	if o.remark == "" {
		return list(words, 6)
	}
	return list(words, 6) + "; " + o.remark
}

// Fragment writes the fragment of a kernel's configuration on top of lupine-base
// with a reason for each option, and says what could not be seen.
func (u *Uses) Fragment(w io.Writer, title ...string) error {
	b := head(title)
	libraries, maybe := &text{}, &text{}
	for i := range options {
		o := &options[i]
		switch r := u.why(o); {
		case len(r.words) == 0:
		case !r.sure:
			maybe.doubt(o, o.remarked(r.words))
		case r.program:
			b.ask(o, o.remarked(r.words))
		default:
			libraries.ask(o, o.remarked(r.words))
		}
	}
	b.part("Only its libraries ask for these, perhaps on paths that the program never takes.", libraries)
	b.part("Only the C library gets there, on paths of its own. Try without:", maybe)
	b.line("")
	b.line("# Not seen:")
	u.unseen(b)
	b.line("# - requests of ioctl, setsockopt and prctl; address families that come from configuration; what a script or a configuration file asks for")
	_, err := io.WriteString(w, b.String())
	return err
}

// Joined writes the fragment out of the code and of a run: each option with whether it was seen in
// use, only asked for, or both.
func (u *Uses) Joined(w io.Writer, r *Report, title ...string) error {
	b := head(title)
	only, code, maybe := &text{}, &text{}, &text{}
	both := &text{}
	for i := range options {
		o := &options[i]
		why := u.why(o)
		used, weak := r.shows(o)
		asks := "asked for by the code, not seen: "
		if len(weak) > 0 {
			asks = "seen: " + list(weak, 3) + "; asked for by the code: "
		}
		switch {
		case len(used) > 0 && why.sure:
			both.ask(o, "seen in use: "+list(used, 6), "in the code: "+o.remarked(why.words))
		case len(used) > 0:
			only.ask(o, "seen in use: "+o.remarked(used))
		case why.program:
			code.ask(o, asks+o.remarked(why.words))
		case len(why.words) > 0:
			maybe.doubt(o, asks+o.remarked(why.words))
		case len(weak) > 0:
			maybe.doubt(o, "seen: "+o.remarked(weak))
		}
	}
	b.part("Seen in use, and found in the code.", both)
	b.part("Seen in use, and not found in the code: by scripts, by what is loaded or started meanwhile, or by the start of the program.", only)
	b.part("The program's own code asks for these, and the run did not come there. Without them what the run did works.", code)
	b.part("Not seen in use, or without effect; only libraries ask for these. Try without:", maybe)
	u.notRun(b, r)
	_, err := io.WriteString(w, b.String())
	return err
}

// notRun writes what neither the code nor the run showed.
func (u *Uses) notRun(b *text, r *Report) {
	b.line("")
	b.line("# Not seen:")
	b.line("# - what the application did not do in the run: it made %d different system calls", len(r.texts('c')))
	if !r.Ended {
		b.line("# - its end: the run was over before the program had ended")
	}
	if r.Full {
		b.line("# - what came late in the run: the guest saw more than it can report")
	}
	looked := func(path string) bool {
		return path == "/" || path == "/etc/ld.so.cache" || slices.ContainsFunc(u.files, func(o *object) bool { return o.path == path })
	}
	for _, kind := range []struct {
		letter byte
		verb   string
	}{{'x', "started"}, {'l', "loaded"}} {
		if files := slices.DeleteFunc(r.texts(kind.letter), looked); len(files) > 0 {
			b.line("# - the code of %s, which the run %s; name them as programs to look at them", list(files, 8), kind.verb)
		}
	}
	var calls []string
	for _, text := range r.texts('n') {
		n, _ := number(text, 1023)
		name := callNames[int(n)]
		if name == "" {
			name = "number " + text
		}
		calls = append(calls, name)
	}
	if len(calls) > 0 {
		b.line("# - what the program does when these system calls exist, which the run's kernel does not have: %s", list(calls, 8))
	}
	var requests []string
	for _, text := range r.texts('a') {
		if v, ok := strings.CutPrefix(text, fmt.Sprint(unix.SYS_IOCTL, ".")); ok {
			n, _ := number(v, 1<<32-1)
			requests = append(requests, fmt.Sprintf("%#x", n))
		}
	}
	if len(requests) > 0 {
		b.line("# - what these requests of ioctl take: %s", list(requests, 12))
	}
	u.unseen(b)
	b.line("# - files named from an open folder or the working directory, unless they were opened; what io_uring does; what the kernel does unasked")
}

// unseen writes what looking at the code has not shown.
func (u *Uses) unseen(b *text) {
	for _, m := range u.Missing {
		b.line("# - %s, which it is linked with, is not in the folder", m)
	}
	for _, f := range []string{"dlopen", "dlmopen"} {
		if files := u.Callers[f]; files != nil {
			b.line("# - what %s loads while it runs (%s): plug-ins, modules, name services; name them as programs to look at them",
				list(slices.Sorted(maps.Keys(files)), 3), f)
		}
	}
	for _, f := range []string{"execve", "execv", "execvp", "execl", "execlp", "posix_spawn", "posix_spawnp", "system", "popen"} {
		if files := u.Callers[f]; files != nil {
			b.line("# - the programs that %s starts (%s)", list(slices.Sorted(maps.Keys(files)), 3), f)
		}
	}
	for _, h := range u.Hidden {
		b.line("# - %s", h)
	}
}
