package control

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RunDirEnv names the run directory, where no option does.
const RunDirEnv = "UVM_RUN_DIR"

// ErrNoRunDir says that this user has no place for a run directory.
var ErrNoRunDir = errors.New("no run directory: XDG_RUNTIME_DIR is not set (set it, or " + RunDirEnv + ", or use --run-dir)")

// DefaultDir is the run directory of this user: $UVM_RUN_DIR, for root /run/uvm, $XDG_RUNTIME_DIR/uvm, or
// /run/user/UID/uvm.
func DefaultDir() (string, error) {
	if dir := os.Getenv(RunDirEnv); dir != "" {
		return dir, nil
	}
	uid := os.Geteuid()
	if uid == 0 {
		return "/run/uvm", nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "uvm"), nil
	}
	dir := "/run/user/" + strconv.Itoa(uid)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return filepath.Join(dir, "uvm"), nil
	}
	return "", ErrNoRunDir
}

// Dir is a run directory, which holds a socket for each VM: ID.sock or ID.NAME.sock. Its methods may be called
// from one goroutine at a time.
type Dir struct {
	path string
	f    *os.File // also what is locked
}

// OpenDir opens a run directory. With create it is made if it does not exist, and then has to be this user's
// own; otherwise root may open those of others. Nobody else may have any access to it. The error of one that
// does not exist is fs.ErrNotExist.
func OpenDir(path string, create bool) (*Dir, error) {
	if create {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("run directory: %w", err)
		}
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("run directory: %w", err)
		}
	}
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("run directory %s: %w", path, err)
	}
	uid := uint32(os.Geteuid())
	switch {
	case st.Uid != uid && (create || uid != 0):
		err = fmt.Errorf("run directory %s belongs to user %d, not to you (user %d)", path, st.Uid, uid)
	case st.Mode&0o077 != 0:
		err = fmt.Errorf("run directory %s has mode %#o: others may use it (chmod 700 %s)", path, st.Mode&0o777, path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Dir{path, f}, nil
}

// Close releases the directory. Servers and clients stay as they are.
func (d *Dir) Close() error { return d.f.Close() }

// lockTime bounds the wait for another program that makes or removes sockets, which takes no time.
const lockTime = 5 * time.Second

// lock keeps other programs from making or removing sockets. The kernel drops it with the process.
func (d *Dir) lock() (unlock func(), err error) {
	for deadline := time.Now().Add(lockTime); ; time.Sleep(2 * time.Millisecond) {
		err := unix.Flock(int(d.f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { unix.Flock(int(d.f.Fd()), unix.LOCK_UN) }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Now().After(deadline) {
			return nil, fmt.Errorf("run directory %s: lock: %w", d.path, err)
		}
	}
}

// Entry is a socket in the run directory: that of a VM which is alive, unless its monitor was killed.
type Entry struct {
	ID   string // idDigits hexadecimal digits
	Name string // "" = none
	dir  string
}

const (
	idDigits = 12
	mostName = 63 // bytes: a host name's label, and so short enough for any file name
	suffix   = ".sock"
)

// CheckName says what is wrong with the name of a VM.
func CheckName(name string) error {
	ok := len(name) <= mostName
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (letter || i > 0 && (c == '-' || c == '_' || c == '.'))
	}
	if !ok || name == "" {
		return fmt.Errorf("name %q: want 1 to %d letters and digits; - _ and . may follow the first one", name, mostName)
	}
	return nil
}

// NewID is the identification of a new VM.
func NewID() (string, error) {
	var b [idDigits / 2]byte
	if _, err := unix.Getrandom(b[:], 0); err != nil {
		return "", fmt.Errorf("random numbers: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

func (e Entry) file() string {
	if e.Name == "" {
		return e.ID + suffix
	}
	return e.ID + "." + e.Name + suffix
}

func (e Entry) String() string {
	if e.Name == "" {
		return e.ID
	}
	return e.ID + " (" + e.Name + ")"
}

// parseEntry reads a file's name.
func parseEntry(file string) (e Entry, ok bool) {
	base, ok := strings.CutSuffix(file, suffix)
	if !ok {
		return Entry{}, false
	}
	e.ID, e.Name, ok = strings.Cut(base, ".")
	if len(e.ID) != idDigits || strings.Trim(e.ID, "0123456789abcdef") != "" || ok && CheckName(e.Name) != nil {
		return Entry{}, false
	}
	return e, true
}

// List returns all sockets, by ID. Some may be of monitors that were killed: Dial tells.
func (d *Dir) List() ([]Entry, error) {
	if _, err := d.f.Seek(0, 0); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	names, err := d.f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	var all []Entry
	for _, file := range names {
		if e, ok := parseEntry(file); ok {
			e.dir = d.path
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// Find returns the VM that ref names: its name, or the beginning of a name or of an ID that only it has.
// Of several sockets those of killed monitors do not count.
func (d *Dir) Find(ref string) (Entry, error) {
	all, err := d.List()
	if err != nil {
		return Entry{}, err
	}
	var found []Entry
	for _, e := range all {
		if e.Name == ref || e.ID == ref {
			found = []Entry{e}
			break
		}
		if ref != "" && (strings.HasPrefix(e.ID, ref) || strings.HasPrefix(e.Name, ref)) {
			found = append(found, e)
		}
	}
	if len(found) > 1 {
		found = slices.DeleteFunc(found, func(e Entry) bool { return d.stale(e) })
	}
	switch len(found) {
	case 0:
		return Entry{}, fmt.Errorf("no VM %q (uvm ps shows all)", ref)
	case 1:
		return found[0], nil
	}
	words := make([]string, len(found))
	for i, e := range found {
		words[i] = e.String()
	}
	return Entry{}, fmt.Errorf("%q is the beginning of more than one VM: %s", ref, strings.Join(words, ", "))
}

// Clean removes the sockets of monitors that were killed.
func (d *Dir) Clean() error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	all, err := d.List()
	for _, e := range all {
		d.removeStale(e)
	}
	return err
}

// stale says that nobody listens. Without the lock it is only an opinion: a socket may be about to.
func (d *Dir) stale(e Entry) bool {
	f, _, err := dial(e.dir, e.file(), 0)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, ErrGone)
}

// removeStale removes the socket if nobody listens, and says that it is free. The lock is held, under which
// sockets are made.
func (d *Dir) removeStale(e Entry) bool {
	if !d.stale(e) {
		return false
	}
	err := unix.Unlinkat(int(d.f.Fd()), e.file(), 0)
	return err == nil || err == unix.ENOENT
}
