package symbols

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The functions of a kernel that was never run; its stack is made by hand.
const source = `
__attribute__((naked, used)) void leaf(void) { __asm__("nop\n\tret"); }
void (*pointer)(void) = leaf;
__attribute__((noinline, used)) int middle(int x) { leaf(); return x + 1; }
__attribute__((noinline, used)) int outer(int x) { pointer(); return middle(x) + 2; }
void _start(void) { outer(1); for (;;); }
`

func build(t *testing.T, flags ...string) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Fatalf("%v; install it: apt-get install gcc", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "guest.c"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "guest")
	cmd := exec.Command(gcc, append([]string{"-O1", "-g", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-nostdlib", "-static", "-no-pie", "-fno-pie", "-fcf-protection=none", "-o", file, "guest.c"}, flags...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return file
}

func open(t *testing.T, file string) *Table {
	t.Helper()
	tb, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func (t *Table) addr(name string) uint64 {
	for _, f := range t.funcs {
		if f.name == name {
			return f.addr
		}
	}
	return 0
}

// stack is memory at 0x7000000; below lies the program's text, which the file has.
type stack struct {
	words []uint64
	text  []byte
	base  uint64
}

const top = 0x7000000

func (s *stack) read(addr uint64, b []byte) bool {
	if addr >= s.base && addr-s.base+uint64(len(b)) <= uint64(len(s.text)) {
		copy(b, s.text[addr-s.base:])
		return true
	}
	all := make([]byte, 0, 8*len(s.words))
	for _, w := range s.words {
		all = binary.LittleEndian.AppendUint64(all, w)
	}
	if addr < top || addr-top+uint64(len(b)) > uint64(len(all)) {
		return false
	}
	copy(b, all[addr-top:])
	return true
}

// after is the address behind the n-th call in a function.
func (s *stack) after(t *testing.T, tb *Table, name string, n int) uint64 {
	a := tb.addr(name)
	for end := a + 200; a < end; a++ {
		if tb.isReturn(a, s.read) {
			if n--; n < 0 {
				return a
			}
		}
	}
	t.Fatalf("no call %d in %s", n, name)
	return 0
}

func TestTrace(t *testing.T) {
	file := build(t)
	tb := open(t, file)
	s := &stack{base: tb.text[0][0]}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s.text = b[0x1000:] // where the linker puts the text
	leaf, middle, outer := tb.addr("leaf"), s.after(t, tb, "middle", 0), s.after(t, tb, "outer", 1)
	start, stale := s.after(t, tb, "_start", 0), s.after(t, tb, "outer", 0)
	// leaf has no frame; stale is left from an earlier call; the others are a chain.
	s.words = []uint64{middle, 0, stale, top + 6*8, 1, 2, top + 9*8, outer, 3, 0, start, 0, middle, leaf}
	got := tb.Text(tb.Trace(leaf+1, top, top+6*8, s.read))
	want := []string{
		`^#0    0x[0-9a-f]{16} leaf\+0x1 \(.*guest\.c:2\)$`,
		`^#1  \? 0x[0-9a-f]{16} middle\+0x[0-9a-f]+ \(.*guest\.c:4\)$`,
		`^#2  \? 0x[0-9a-f]{16} outer\+0x[0-9a-f]+ \(.*guest\.c:5\)$`,
		`^#3    0x[0-9a-f]{16} outer\+0x[0-9a-f]+ \(.*guest\.c:5\)$`,
		`^#4    0x[0-9a-f]{16} _start\+0x[0-9a-f]+ \(.*guest\.c:6\)$`,
		`^#5  \? 0x[0-9a-f]{16} middle\+0x`,
	}
	for i, w := range want {
		if i >= len(got) || !regexp.MustCompile(w).MatchString(got[i]) {
			t.Errorf("trace:\n%s\nwant line %d as %s", strings.Join(got, "\n"), i, w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("trace:\n%s\nwant %d lines", strings.Join(got, "\n"), len(want))
	}
	if n := len(tb.Trace(leaf, 0x10, ^uint64(7), s.read)); n != 1 {
		t.Errorf("trace without a stack has %d frames; want 1", n)
	}
	// Chains without end, backwards, and up to the end of the address space.
	for _, w := range []uint64{top, top + 8, ^uint64(7), 0} {
		s.words = []uint64{w, middle, w, middle, w, middle}
		if n := len(tb.Trace(leaf, top, top, s.read)); n > 7 {
			t.Errorf("trace of a chain to %#x has %d frames; want at most 7", w, n)
		}
	}
	if n := len(tb.Trace(leaf, ^uint64(7), ^uint64(7), func(uint64, []byte) bool { return true })); n > maxFrames {
		t.Errorf("trace at the end of the address space has %d frames; want at most %d", n, maxFrames)
	}
}

// TestNoSymbols opens a file without symbols, and files that are none.
func TestNoSymbols(t *testing.T) {
	tb := open(t, build(t, "-s"))
	if got, want := tb.Describe(0x401000, false), "0x0000000000401000"; got != want {
		t.Errorf("Describe() without symbols = %q; want %q", got, want)
	}
	file := filepath.Join(t.TempDir(), "x")
	os.WriteFile(file, []byte("\x7fELF no"), 0o600)
	for _, f := range []string{file, "/dev/null", "/nonexistent"} {
		if _, err := Open(f); err == nil {
			t.Errorf("Open(%s) = nil; want an error", f)
		}
	}
}

// FuzzOpen opens damaged files (a whole file as input would keep the fuzzer busy with making it smaller) and looks addresses up.
func FuzzOpen(f *testing.F) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	os.WriteFile(filepath.Join(dir, "guest.c"), []byte(source), 0o600)
	cmd := exec.Command(gcc, "-O1", "-g", "-nostdlib", "-static", "-Wl,-z,noseparate-code", "-o", "guest", "guest.c")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		f.Fatalf("gcc: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "guest"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(40), []byte{1, 2}, uint64(0x401000))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, addr uint64) {
		b := slices.Clone(b)
		copy(b[int(at)%len(b):], patch)
		file := filepath.Join(t.TempDir(), "guest")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		tb, err := Open(file)
		if err != nil {
			return
		}
		tb.Describe(addr, true)
		tb.Trace(addr, addr, addr, func(a uint64, b []byte) bool { return a%3 == 0 })
	})
}
