package rootfs

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Where uvm's own files lie in a root file system.
const (
	ownDir    = ".uvm"
	StartPath = "/" + ownDir + "/start"
	InitPath  = "/" + ownDir + "/init"
)

// Start says what the guest's init has to run: a container image's configuration, with what
// the command line puts in its place.
type Start struct {
	Entrypoint, Cmd []string
	Env             []string // KEY=VALUE
	WorkDir         string   // "" means /
	User            string   // USER[:GROUP], names or numbers; "" means root
	Hostname        string
}

// SearchPath is where a program without a slash is sought.
func (s *Start) SearchPath() []string {
	list := strings.TrimPrefix(defaultPath, "PATH=")
	for _, e := range s.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			list = v
		}
	}
	return strings.Split(list, ":")
}

// defaultPath is the PATH of a program whose image says nothing else.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ErrNoEntry says that there is nothing to run.
var ErrNoEntry = errors.New("the image names no entry point and no command: say one with --entrypoint")

// AddStart adds the start description, and init unless it is empty, as files of the tree's. It
// looks the user up in the tree's own /etc/passwd and /etc/group.
func (t *Tree) AddStart(s *Start, init []byte) error {
	argv := slices.Concat(s.Entrypoint, s.Cmd)
	if len(argv) == 0 || argv[0] == "" {
		return ErrNoEntry
	}
	id, err := t.identify(s.User)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(s.WorkDir, "/") && s.WorkDir != "" {
		return fmt.Errorf("working directory %q does not begin with /", s.WorkDir)
	}
	text, err := s.encode(id)
	if err != nil {
		return err
	}
	t.layer++
	if names, err := clean(s.WorkDir); err != nil {
		return fmt.Errorf("working directory: %w", err)
	} else if _, err := t.walk(names, true, t.Root.MTime); err != nil { // made if it is missing, as Docker does
		return fmt.Errorf("working directory %s: %w", s.WorkDir, err)
	}
	for name, perm := range map[string]uint32{"dev": 0o755, "proc": 0o555, "sys": 0o555, "tmp": 0o1777} { // for init to mount on
		if t.Root.children[name] == nil {
			t.Root.children[name] = &entry{newDir(perm, t.Root.MTime), t.layer}
		}
	}
	if old := t.Root.children[ownDir]; old != nil {
		t.drop(old.node)
		delete(t.Root.children, ownDir)
	}
	dir := newDir(0o755, t.Root.MTime)
	t.Root.children[ownDir] = &entry{dir, t.layer}
	for name, f := range map[string]struct {
		perm    uint32
		content []byte
	}{"start": {0o444, text}, "init": {0o555, init}} {
		if len(f.content) == 0 {
			continue
		}
		d, err := t.spool.addBytes(f.content)
		if err != nil {
			return err
		}
		dir.children[name] = &entry{&Node{Mode: unix.S_IFREG | f.perm, MTime: t.Root.MTime, Data: d, links: 1}, t.layer}
	}
	return nil
}

// startVersion begins a start description. guests/init reads it.
const startVersion = "uvm-start 1"

// encode makes the description: strings that end with NUL, each of which begins with a
// letter that says what it is.
func (s *Start) encode(id *identity) ([]byte, error) {
	lines := []string{startVersion, fmt.Sprint("u", id.uid), fmt.Sprint("g", id.gid)}
	for _, g := range id.groups {
		lines = append(lines, fmt.Sprint("G", g))
	}
	lines = append(lines, "w"+cmp.Or(s.WorkDir, "/"))
	if s.Hostname != "" {
		lines = append(lines, "h"+s.Hostname)
	}
	env := map[string]string{}
	for _, e := range append([]string{defaultPath, "HOME=" + id.home}, s.Env...) {
		key, value, ok := strings.Cut(e, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("environment %q is not KEY=VALUE", e)
		}
		env[key] = value
	}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		lines = append(lines, "e"+key+"="+env[key])
	}
	for _, a := range s.Entrypoint {
		lines = append(lines, "a"+a)
	}
	lines = append(lines, "-") // what follows can be replaced when the VM starts
	for _, a := range s.Cmd {
		lines = append(lines, "a"+a)
	}
	return join(lines)
}

// join checks the strings of a description and puts them together.
func join(lines []string) ([]byte, error) {
	size := 0
	for _, l := range lines {
		if strings.Contains(l, "\x00") {
			return nil, fmt.Errorf("start description: %q has a NUL in it", l)
		}
		size += len(l) + 1
	}
	if size > maxStart || len(lines) > maxStartWords {
		return nil, fmt.Errorf("the entry point and its environment are %d words of %d bytes; at most %d of %d are supported", len(lines), size, maxStartWords, maxStart)
	}
	return []byte(strings.Join(lines, "\x00") + "\x00"), nil
}

// What guests/init has room for.
const (
	maxStart      = 1 << 17
	maxStartWords = 2048
)

// identity is a user in numbers.
type identity struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// identify resolves USER[:GROUP].
func (t *Tree) identify(spec string) (*identity, error) {
	user, group, hasGroup := strings.Cut(spec, ":")
	user = cmp.Or(user, "0")
	id := &identity{home: "/"}
	name := ""
	number, numeric := parseID(user)
	found := false
	for _, f := range t.table("/etc/passwd", 7) { // name:password:uid:gid:comment:home:shell
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if ok1 && ok2 && (f[0] == user || numeric && uid == number) {
			name, id.uid, id.gid, id.home, found = f[0], uid, gid, cmp.Or(f[5], "/"), true
			break
		}
	}
	switch {
	case !found && !numeric:
		return nil, fmt.Errorf("user %q is not in the image's /etc/passwd", user)
	case !found:
		id.uid = number
	}
	groups := t.table("/etc/group", 4) // name:password:gid:members
	if hasGroup {
		gid, numeric := parseID(group)
		for _, f := range groups {
			if g, ok := parseID(f[2]); ok && f[0] == group {
				gid, numeric = g, true
				break
			}
		}
		if !numeric {
			return nil, fmt.Errorf("group %q is not in the image's /etc/group", group)
		}
		id.gid = gid
		return id, nil
	}
	for _, f := range groups {
		if g, ok := parseID(f[2]); ok && name != "" && len(id.groups) < 64 && slices.Contains(strings.Split(f[3], ","), name) {
			id.groups = append(id.groups, g)
		}
	}
	return id, nil
}

func parseID(s string) (uint32, bool) {
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err == nil && v != math.MaxUint32
}

// table reads a file of lines with so many fields, separated by colons; nothing if the tree
// has no such file.
func (t *Tree) table(path string, fields int) [][]string {
	n := t.Lookup(path)
	if n == nil || n.Data == nil {
		return nil
	}
	text, err := n.Data.read(1 << 20)
	if err != nil {
		return nil
	}
	var lines [][]string
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= fields {
			lines = append(lines, f)
		}
	}
	return lines
}

// change puts other arguments and more environment into a start description.
func change(text string, args, env []string) ([]byte, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
	if lines[0] != startVersion {
		return nil, fmt.Errorf("%s is not of this version", StartPath)
	}
	entry := slices.Index(lines, "-")
	for _, e := range env {
		key, _, ok := strings.Cut(e, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("environment %q is not KEY=VALUE", e)
		}
		if at := slices.IndexFunc(lines[:entry], func(l string) bool { return strings.HasPrefix(l, "e"+key+"=") }); at >= 0 {
			lines[at] = "e" + e
			continue
		}
		lines = slices.Insert(lines, 1, "e"+e)
		entry++
	}
	if len(args) > 0 {
		lines = lines[:entry+1]
		for _, a := range args {
			lines = append(lines, "a"+a)
		}
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "a") }) {
		return nil, ErrNoEntry
	}
	return join(lines)
}
