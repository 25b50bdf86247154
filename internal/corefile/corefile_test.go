package corefile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// ram is a memory whose pieces are where it has been written.
type ram struct {
	bytes.Reader
	b   []byte
	bad int64 // the page that cannot be read; 0 = none
}

func (r *ram) ReadAt(b []byte, off int64) (int, error) {
	if r.bad != 0 && off < r.bad+page && off+int64(len(b)) > r.bad {
		return 0, syscall.EFAULT
	}
	return copy(b, r.b[off:]), nil
}

func (r *ram) Next(off uint64) (uint64, uint64, bool) {
	return off, uint64(len(r.b)), off < uint64(len(r.b))
}

func example() *Core {
	low, high := &ram{b: make([]byte, 1<<20)}, &ram{b: make([]byte, 4*page)}
	copy(low.b[5*page:], "in low memory")
	copy(low.b[9*page-4:], "over a boundary")
	copy(high.b[page:], "behind the hole")
	high.bad = 2 * page
	x := make([]byte, 4096)
	x[512] = 0xff // more components than gdb is to know
	return &Core{
		Name: "a-kernel-with-a-long-name.hvt", Args: "one two",
		Threads: []Thread{{Regs: UserRegs{RIP: 0x100123, RSP: 0x104ff8, RAX: 42}, XSave: x, Signal: 11}, {Regs: UserRegs{RIP: 0x200000}}},
		Memory:  []Range{{0, 1 << 20, low}, {4 << 20, 4 * page, high}},
		Maps:    []Map{{0, 0, 1 << 20}, {0xffffffff80000000, 5 * page, page}, {0x7000000, 0xff000, 0x302000}, {0x9000000, 64 << 20, page}},
	}
}

// TestSave reads a core file back as an ELF file.
func TestSave(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "core.x.partial"), []byte("left by somebody"), 0o600)
	path, err := Save(dir, "core.x", example())
	if err != nil {
		t.Fatal(err)
	}
	files, _ := os.ReadDir(dir)
	st, _ := os.Stat(path)
	if len(files) != 1 || st.Mode().Perm() != 0o600 {
		t.Errorf("%d files, mode %v; want one that its owner can read", len(files), st.Mode())
	}
	if blocks := st.Sys().(*syscall.Stat_t).Blocks * 512; blocks > 64<<10 || st.Size() < 1<<20 {
		t.Errorf("core file of %d bytes takes %d; want holes", st.Size(), blocks)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func(va uint64, n int) string {
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && va >= p.Vaddr && va-p.Vaddr+uint64(n) <= p.Filesz {
				b := make([]byte, n)
				if _, err := p.ReadAt(b, int64(va-p.Vaddr)); err != nil {
					t.Errorf("read %#x: %v", va, err)
				}
				return string(b)
			}
		}
		return "nothing"
	}
	for va, want := range map[uint64]string{
		5 * page: "in low memory", 9*page - 4: "over a boundary", 0xffffffff80000000: "in low memory",
		0x7000000 + 0x301000 + page: "nothing", 0x7000000 + 0x301000: "\x00\x00", 0x9000000: "nothing", 20 * page: "\x00\x00\x00",
	} {
		if got := read(va, len(want)); got != want && !(want == "nothing" && got == want) {
			t.Errorf("memory at %#x = %q; want %q", va, got, want)
		}
	}
	if f.Type != elf.ET_CORE || f.Progs[0].Type != elf.PT_NOTE || len(f.Progs) != 5 {
		t.Errorf("%v with %d program headers; want a core with 5", f.Type, len(f.Progs))
	}
	if n := binary.Size(prStatus{}); n != 336 {
		t.Errorf("elf_prstatus has %d bytes; want 336", n)
	}
	if n := binary.Size(prPSInfo{}); n != 136 {
		t.Errorf("elf_prpsinfo has %d bytes; want 136", n)
	}
}

// TestReadelf has binutils read the notes.
func TestReadelf(t *testing.T) {
	readelf, err := exec.LookPath("readelf")
	if err != nil {
		t.Fatalf("%v; install it: apt-get install binutils", err)
	}
	path, err := Save(t.TempDir(), "core", example())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(readelf, "-n", path).CombinedOutput()
	if err != nil {
		t.Fatalf("readelf: %v\n%s", err, out)
	}
	for _, want := range []string{"NT_PRSTATUS", "NT_PRPSINFO", "NT_FPREGSET", "NT_X86_XSTATE"} {
		if n, most := strings.Count(string(out), want), map[bool]int{true: 2, false: 1}[want == "NT_PRSTATUS"]; n != most {
			t.Errorf("readelf -n shows %s %d times; want %d\n%s", want, n, most, out)
		}
	}
}

// TestFull fills the disk at every point: an error, and no file.
func TestFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("tmpfs: %v; run as root", err)
	}
	defer unix.Unmount(dir, 0)
	if path, err := Save(dir, "core", example()); !errors.Is(err, syscall.ENOSPC) || path != "" {
		t.Errorf("Save() on a full disk = %q, %v; want ENOSPC", path, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("%v is left; want nothing", files)
	}
	for _, bad := range []*Core{{}, {Threads: make([]Thread, 1), Maps: make([]Map, MaxMaps+1)}} {
		if _, err := Save(dir, "core", bad); err == nil {
			t.Error("Save() of what cannot be a core = nil; want an error")
		}
	}
	if _, err := Save("/nonexistent", "core", example()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Save() into no directory = %v; want ErrNotExist", err)
	}
}
