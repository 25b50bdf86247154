package appscan

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tree makes files below a folder: a value that begins with -> is a link.
func tree(t *testing.T, files map[string]string) (r *Root, dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, file)
		} else {
			err = os.WriteFile(file, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return &Root{FS: os.DirFS(dir).(fs.ReadLinkFS), Path: []string{"/sbin", "/usr/bin", "/bin"}}, dir
}

// TestResolve has links that would lead out of the folder: in the guest they do not.
func TestResolve(t *testing.T) {
	r, _ := tree(t, map[string]string{
		"usr/bin/app": "x", "bin": "->/usr/bin", "etc/out": "->../../../../usr/bin/app", "etc/passwd": "->/etc/shadow", "etc/shadow": "x",
		"loop": "->loop", "a": "->b/c", "b": "->usr", "usr/c": "->bin/app", "gone": "->/nowhere",
	})
	for name, want := range map[string]string{
		"/bin/app": "/usr/bin/app", "bin/app": "/usr/bin/app", "/etc/out": "/usr/bin/app", "/etc/passwd": "/etc/shadow",
		"/../../usr/bin/app": "/usr/bin/app", "/a": "/usr/bin/app",
		"/loop": "", "/gone": "", "/usr/bin/app/x": "",
	} {
		got, err := r.resolve(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("resolve(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	if got, err := r.Find("app"); got != "/usr/bin/app" {
		t.Errorf("Find(app) = %q, %v; want /usr/bin/app", got, err)
	}
	if _, err := r.Find("nothing"); err == nil || !strings.Contains(err.Error(), "no program nothing") {
		t.Errorf("Find(nothing) = %v; want an error", err)
	}
}

const program = `
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static void *run(void *x) { return x; }
static int later(void) { return inotify_init1(0); }
int (*volatile hook)(void) = later;
int unused(void) { return shmctl(0, 0, 0); }
int main(int argc, char **argv)
{
	pthread_t t;
	switch (argc) {
	case 1: return epoll_create1(0);
	case 2: return flock(0, LOCK_EX);
	case 3: return socket(AF_UNIX, SOCK_STREAM, 0);
	case 4: return syscall(SYS_io_setup, 1, 0);
	case 5: return pthread_create(&t, 0, run, 0);
	case 6: return open("/proc/cpuinfo", 0);
	case 7: return hook();
	}
	return 0;
}
`

// options are the lines of a fragment that ask for something.
var asked = regexp.MustCompile(`(?m)^CONFIG_(\w+)=y$`)

// TestCompiled looks at a program that the compiler of this machine made, in
// three kinds, with this machine's C library.
func TestCompiled(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Fatalf("%v; install gcc", err)
	}
	src := filepath.Join(t.TempDir(), "app.c")
	if err := os.WriteFile(src, []byte(strings.Replace(program, "#include <pthread.h>", "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <sys/shm.h>\n#include <pthread.h>", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, flags := range []string{"-O2 -pie -fpie", "-O0 -no-pie -fno-pie", "-O2 -static"} {
		r, dir := tree(t, map[string]string{"usr/bin/app": ""})
		app := filepath.Join(dir, "usr/bin/app")
		if out, err := exec.Command(gcc, append(strings.Fields(flags), "-ffunction-sections", "-Wl,--gc-sections", "-pthread", "-o", app, src)...).CombinedOutput(); err != nil {
			t.Fatalf("gcc %s: %v\n%s", flags, err, out)
		}
		static := strings.Contains(flags, "static")
		if !static {
			libraries(t, dir, app)
		}
		u, err := r.Scan("app")
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := u.Fragment(&b, "test"); err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, m := range asked.FindAllStringSubmatch(b.String(), -1) {
			got[m[1]] = true
		}
		want := []string{"FUTEX", "EPOLL", "AIO", "FILE_LOCKING", "INOTIFY_USER", "PROC_FS"}
		not := []string{"TIMERFD", "SIGNALFD", "FANOTIFY", "POSIX_MQUEUE", "BPF_SYSCALL"}
		if !static { // where the C library's own code counts as the program's, and its calls have no names
			want = append(want, "UNIX")
			not = append(not, "EVENTFD", "SYSVIPC", "RSEQ", "MULTIUSER")
		}
		for _, o := range want {
			if !got[o] {
				t.Errorf("%s: no %s in\n%s", flags, o, &b)
			}
		}
		for _, o := range not {
			if got[o] {
				t.Errorf("%s: %s, which the program has nothing of, in\n%s", flags, o, &b)
			}
		}
	}
}

// libraries copies what ldd says that app needs.
func libraries(t *testing.T, dir, app string) {
	t.Helper()
	out, err := exec.Command("ldd", app).Output()
	if err != nil {
		t.Fatalf("ldd: %v", err)
	}
	for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		b, err := os.ReadFile(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(dir+m[1]), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+m[1], b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefused(t *testing.T) {
	r, _ := tree(t, map[string]string{
		"text": "hello", "elf": "\x7fELF and then nothing", "script": "#!/bin/none\n", "empty": "", "dir/file": "x", "self": "#!/self\n",
	})
	for name, want := range map[string]string{
		"/text": "not an ELF file", "/elf": "/elf: ", "/script": "no such file", "/empty": "not an ELF file", "/dir": "/dir", "/self": "not an ELF file",
		"/absent": "no such file",
	} {
		if _, err := r.Scan(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Scan(%s) = %v; want %q in it", name, err, want)
		}
	}
}

// FuzzParse reads damaged files and looks at what they call code.
func FuzzParse(f *testing.F) {
	var b bytes.Buffer
	code := []byte{0x48, 0x8d, 0x05, 0x03, 0, 0, 0, 0xff, 0xe0, 0xc3, 0xb8, 0x39, 0, 0, 0, 0x0f, 0x05, 0xc3}
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: 0x1078, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	for _, part := range []any{h, elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_X), Vaddr: 0x1000, Filesz: 120 + uint64(len(code)), Memsz: 0x1000}, code} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			f.Fatal(err)
		}
	}
	if o, err := parse("/app", b.Bytes()); err != nil || in(o.text, o.entry) == nil {
		f.Fatalf("the seed: %v", err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		o, err := parse("/app", b)
		if err != nil {
			return
		}
		s := newScanner([]*object{o})
		s.run()
		var out strings.Builder
		if err := s.uses.Fragment(&out, "fuzz"); err != nil || !strings.HasPrefix(out.String(), "# on: lupine-base\n") {
			t.Errorf("Fragment() = %q, %v", out.String(), err)
		}
	})
}
