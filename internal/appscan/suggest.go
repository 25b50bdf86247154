package appscan

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Scan finds what a program below the root, and the libraries that it is linked
// with, can do. Of a script it looks at the interpreter.
func (r *Root) Scan(program string) (*Uses, error) {
	file, err := r.Find(program)
	if err != nil {
		return nil, err
	}
	var remarks []string
	for range 3 { // a script's interpreter may be one
		interpreter, ok := r.interpreter(file)
		if !ok {
			break
		}
		remarks = append(remarks, fmt.Sprintf("%s is a script for %s: what it runs was not looked at; name those programs too", file, interpreter))
		if file, err = r.Find(interpreter); err != nil {
			return nil, err
		}
	}
	objects, missing, err := r.closure(file)
	if err != nil {
		return nil, err
	}
	if len(remarks) == 0 {
		objects[0].label = program[strings.LastIndexByte(program, '/')+1:]
	}
	s := newScanner(objects)
	s.run()
	s.uses.programs = map[string]bool{objects[0].label: true}
	s.uses.Missing = missing
	s.uses.Hidden = append(remarks, s.uses.Hidden...)
	return s.uses, nil
}

// interpreter is what the first line of a script asks for.
func (r *Root) interpreter(file string) (string, bool) {
	f, _, err := r.file(file)
	if err != nil {
		return "", false
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 256))
	line, _, _ := bytes.Cut(b, []byte("\n"))
	words := bytes.Fields(bytes.TrimPrefix(line, []byte("#!")))
	if !bytes.HasPrefix(line, []byte("#!")) || len(words) == 0 {
		return "", false
	}
	if bytes.HasSuffix(words[0], []byte("/env")) && len(words) > 1 {
		return string(words[1]), true
	}
	return string(words[0]), true
}

// reason is why an option is suggested.
type reason struct {
	words   []string
	sure    bool // the application itself asks, not only the C library on some path
	program bool // the program does, not only its libraries
}

// why collects what shows that the option is needed.
func (u *Uses) why(o *option) (r reason) {
	by := func(what string, files map[string]bool) {
		r.words = append(r.words, what+" ("+list(slices.Sorted(maps.Keys(files)), 3)+")")
		r.sure = true
		for f := range files {
			r.program = r.program || u.programs[f]
		}
	}
	inside := []string{}
	for _, n := range o.calls {
		if files := u.Own[n]; files != nil {
			by(callNames[n], files)
		} else if u.Calls[n] != "" {
			inside = append(inside, callNames[n]+" (as "+u.Calls[n]+")")
		}
	}
	for _, symbol := range slices.Sorted(maps.Keys(u.Callers)) {
		for _, f := range o.functions {
			prefix, any := strings.CutSuffix(f, "*")
			if symbol == f || any && strings.HasPrefix(symbol, prefix) {
				by(symbol, u.Callers[symbol])
			}
		}
	}
	for _, f := range o.families {
		if files := u.families[f]; files != nil {
			by(fmt.Sprintf("socket of family %d", f), files)
		}
	}
	if o.config[0] == "FILE_LOCKING" && len(u.locks) > 0 {
		by("locks by fcntl", u.locks)
	}
	for _, word := range o.strings {
		for _, file := range u.files {
			if s := file.mentions(word); s != "" && !file.libc() {
				r.words = append(r.words, fmt.Sprintf("%q in %s", s, file.label))
				r.sure = true
				r.program = r.program || u.programs[file.label]
			}
		}
	}
	if !r.sure {
		r.words = inside
	}
	return r
}

// list joins the first n words.
func list(words []string, n int) string {
	if len(words) > n {
		return strings.Join(words[:n], ", ") + fmt.Sprintf(" and %d more", len(words)-n)
	}
	return strings.Join(words, ", ")
}

// mentions finds a string constant that begins with word. (Go's have no end, and
// may follow a letter of another one, which hides them.)
func (o *object) mentions(word string) string {
	for _, part := range slices.Concat(o.data, o.text) {
		for at := 0; ; at++ {
			i := bytes.Index(part.data[at:], []byte(word))
			if i < 0 {
				break
			}
			at += i
			if at > 0 && (isName(part.data[at-1]) || part.data[at-1] == '/') {
				continue
			}
			end := at
			for end < len(part.data) && end < at+40 && (isName(part.data[end]) || part.data[end] == '/' || part.data[end] == '%') {
				end++
			}
			return string(part.data[at:end])
		}
	}
	return ""
}

func isName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
}

// Add takes over what another program can do.
func (u *Uses) Add(v *Uses) {
	if u.Calls == nil {
		*u = *v
		return
	}
	for n, via := range v.Calls {
		if u.Calls[n] == "" {
			u.Calls[n] = via
		}
	}
	add(u.Own, v.Own)
	add(u.Callers, v.Callers)
	add(u.families, v.families)
	maps.Copy(u.locks, v.locks)
	maps.Copy(u.programs, v.programs)
	for _, h := range v.Hidden {
		if !slices.Contains(u.Hidden, h) {
			u.Hidden = append(u.Hidden, h)
		}
	}
	for _, m := range v.Missing {
		if !slices.Contains(u.Missing, m) {
			u.Missing = append(u.Missing, m)
		}
	}
	for _, f := range v.files {
		if !slices.ContainsFunc(u.files, func(o *object) bool { return o.path == f.path }) {
			u.files = append(u.files, f)
		}
	}
}

func add[K comparable](to, from map[K]map[string]bool) {
	for k, files := range from {
		for f := range files {
			note(to, k, f)
		}
	}
}
