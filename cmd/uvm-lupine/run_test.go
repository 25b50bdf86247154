package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// smallProgram makes the system calls futex and epoll_create.
func smallProgram(t *testing.T) string {
	t.Helper()
	code := []byte{0xb8, 202, 0, 0, 0, 0x0f, 0x05, 0xb8, 213, 0, 0, 0, 0x0f, 0x05, 0xc3} // mov eax, 202; syscall; mov eax, 213; syscall; ret
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: 0x1078, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	p := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_X), Off: 120, Vaddr: 0x1078, Filesz: uint64(len(code)), Memsz: uint64(len(code))}
	var b bytes.Buffer
	for _, part := range []any{h, p, code} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// savedImage is what docker save writes of an image with smallProgram as /opt/app, and a script for it.
func savedImage(t *testing.T, cfg v1.Config) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, content := range map[string]string{"opt/app": smallProgram(t), "bin/start": "#!/opt/app\n", "opt/data": "data", "opt/conf": "executable by mistake"} {
		mode := int64(0o755)
		if name == "opt/data" {
			mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: mode}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", cfg
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	tarFile := filepath.Join(t.TempDir(), "app.tar")
	if err := tarball.WriteToFile(tarFile, name.MustParseReference("app:1"), img); err != nil {
		t.Fatal(err)
	}
	return tarFile
}

// TestImage looks at what an image starts.
func TestImage(t *testing.T) {
	tmp := t.TempDir()
	for _, c := range []struct {
		cfg            v1.Config
		args           []string
		status         int
		stdout, stderr string
	}{
		{v1.Config{Entrypoint: []string{"app"}, Env: []string{"PATH=/opt"}}, nil, 0, "\nCONFIG_FUTEX=y\n", ""},
		{v1.Config{Cmd: []string{"./app"}, WorkingDir: "/opt"}, nil, 0, "\nCONFIG_EPOLL=y\n", ""},
		{v1.Config{Entrypoint: []string{"start"}, Cmd: []string{"/opt/app", "/opt/data", "/opt/conf", "/opt", ""}}, nil, 0, "start is a script for /opt/app", ""},
		{v1.Config{Cmd: []string{"start", "/opt/app", "/opt/conf"}}, nil, 0, "# Looked at: start, /opt/app.\n", ""},
		{v1.Config{Entrypoint: []string{"app"}}, nil, 1, "", "no program app in /usr/local/sbin, "},
		{v1.Config{Entrypoint: []string{"/opt/data"}}, nil, 1, "", "/opt/data: not an ELF file"},
		{v1.Config{}, nil, 1, "", "the image names no entry point and no command"},
		{v1.Config{}, []string{"/opt/app"}, 0, "\nCONFIG_FUTEX=y\n", ""},
		{v1.Config{}, []string{"--from", "oci"}, 1, "", "oci-layout"},
		{v1.Config{}, []string{"--tag", "x:2"}, 1, "", "x:2"},
	} {
		file := savedImage(t, c.cfg)
		t.Setenv("TMPDIR", tmp)
		for range 2 {
			var stdout, stderr bytes.Buffer
			status := run(t.Context(), append([]string{"suggest", file}, c.args...), &stdout, &stderr)
			if status != c.status || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) || (c.stderr != "") != (strings.Count(stderr.String(), "\n") == 1) {
				t.Errorf("suggest of %+v with %q = %d, %q, %q; want %d with %q and %q", c.cfg, c.args, status, &stdout, &stderr, c.status, c.stdout, c.stderr)
			}
			if c.stdout != "" {
				c.stdout = stdout.String() // the same again
			}
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in TMPDIR: %v, %v; want nothing", left, err)
	}
}

// watched is a stderr that tells when the run begins.
type watched struct {
	bytes.Buffer
	running func()
}

func (w *watched) Write(b []byte) (int, error) {
	if w.running != nil && bytes.Contains(b, []byte("the guest starts")) {
		w.running()
	}
	return w.Buffer.Write(b)
}

// TestWatch has a shell script in uvm's place, which leaves a report, or does not. The lab has the real one.
func TestWatch(t *testing.T) {
	image := savedImage(t, v1.Config{Entrypoint: []string{"/opt/app"}})
	tmp, home := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("PATH", home+":"+os.Getenv("PATH"))
	t.Setenv("XDG_DATA_HOME", home)
	if err := os.Mkdir(home+"/uvm", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"uvm-init", "lupine-general.vmlinux"} {
		if err := os.WriteFile(home+"/uvm/"+name, []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	defer func(d time.Duration) { patience = d }(patience)
	patience = 200 * time.Millisecond
	// disk writes a report on the guest's second disk, which is descriptor 4.
	const disk = `disk() { printf "uvm-trace 1\\0x/opt/app\\0$1" | dd of=/proc/self/fd/4 conv=notrunc status=none; }
`
	for name, c := range map[string]struct {
		script         string
		args           []string
		ctrlC          bool
		status         int
		stdout, stderr string
	}{
		"a whole report": {`disk 'c202\0e7\0'; exit 7`, nil, false, 0,
			", until the application ended; the application's status was 7.\n\n# Seen in use, and found in the code.\n\n# seen in use: futex\n", "the guest starts; Ctrl-C ends the application\n"},
		"its words": {`disk 'e0\0'; echo "$@" >&2`, []string{"--memory", "64M", "--net", "tap0,ip=10.0.0.2/24", "--", "a"}, false, 0, "",
			"lupine-general.vmlinux --disk /proc/self/fd/3 --disk /proc/self/fd/4 --cmdline quiet init=/.uvm/init --memory 64M --net tap0,ip=10.0.0.2/24 -- trace\n"},
		"an address":         {`disk 'e0\0'`, []string{"--net", "tap0,ip=10.0.0.2/24"}, false, 0, "", "the guest starts at 10.0.0.2; "},
		"the console":        {`disk 'e0\0'; printf 'hello\r\n\033[2J\000x\t\303\244\n'`, nil, false, 0, "", "hello\n?[2J?x\tä\n"},
		"a cut report":       {`disk 'c202\0c253\0c2'; exit 0`, nil, false, 0, "CONFIG_INOTIFY_USER=y", ""},
		"garbage":            {`disk 'c202\0\377\377\0'; exit 0`, nil, false, 1, "", "the guest's report is damaged at byte 27: \"\\xff\\xff\"\n"},
		"lines of its own":   {`disk 'x/a\nCONFIG_MODULES=y\0'; exit 0`, nil, false, 1, "", "damaged at byte 22: \"x/a\\nCONFIG_MODULES=y\"\n"},
		"no report":          {"echo uvm: kernel panic; exit 3", nil, false, 1, "", "came to nothing: uvm ended with status 3 before"},
		"a host without KVM": {"exit 126", nil, false, exitHost, "", "came to nothing: uvm ended with status 126 before"},
		"no start":           {`printf 'uvm-trace 1\0c59\0e127\0' | dd of=/proc/self/fd/4 conv=notrunc status=none; exit 127`, nil, false, 1, "", "could not start the application (status 127)"},
		"killed":             {`disk 'c202\0'; kill -9 $$`, nil, false, 0, "until uvm was ended by signal 9.\n", ""},
		"Ctrl-C":             {`disk 'c202\0'; head -c 1 | od -An -tx1 >&2; disk 'c202\0e130\0'`, nil, true, 0, "until Ctrl-C; the application's status was 130.\n", " 03\n"},
		"--for":              {`disk 'c202\0'; head -c 1 >/dev/null`, []string{"--for", "300ms"}, false, 0, "until --for was over.\n", ""},
		"deaf to Ctrl-C":     {`disk 'c202\0'; exec sleep 1000`, []string{"--for", "300ms"}, false, 0, "until --for was over.\n", ""},
		"deaf to all":        {`trap '' TERM; disk 'c202\0'; while true; do sleep 0.1; done`, []string{"--for", "300ms"}, false, 0, "until --for was over.\n", ""},
	} {
		if err := os.WriteFile(home+"/uvm.new", []byte("#!/bin/bash\n"+disk+c.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(home+"/uvm.new", home+"/uvm/uvm"); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", home+"/uvm:"+os.Getenv("PATH"))
		ctx, cancel := context.WithCancelCause(t.Context())
		var stdout bytes.Buffer
		var stderr watched
		if c.ctrlC {
			stderr.running = func() { cancel(&signalError{syscall.SIGINT}) }
		}
		args := append([]string{"suggest", "--run", image}, c.args...)
		status := run(ctx, args, &stdout, &stderr)
		if status != c.status || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) || (status == 0) != (stdout.Len() > 0) {
			t.Errorf("%s: %q = %d, %q, %q; want %d with %q and %q", name, args, status, &stdout, &stderr, c.status, c.stdout, c.stderr)
		}
		cancel(nil)
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("%s: left in TMPDIR: %v, %v; want nothing", name, left, err)
		}
	}
	var out, diag bytes.Buffer
	for _, args := range [][]string{{home}, {home, "/bin/app"}, {home, "--"}, {savedImage(t, v1.Config{})}, {savedImage(t, v1.Config{Cmd: []string{""}}), "/opt/app"}} {
		out.Reset()
		diag.Reset()
		status := run(t.Context(), append([]string{"suggest", "--run"}, args...), &out, &diag)
		if status != exitUsage || out.Len() > 0 || !strings.HasSuffix(diag.String(), " names no entry point and no command: give what to run after --\n") {
			t.Errorf("%q: %d, %q, %q; want status 125 and one line", args, status, &out, &diag)
		}
	}
	// A signal while the image is still being read.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(&signalError{syscall.SIGTERM})
	var stdout, stderr bytes.Buffer
	if status := run(ctx, []string{"suggest", "--run", image}, &stdout, &stderr); status != 128+15 || stdout.Len()+stderr.Len() > 0 {
		t.Errorf("after a signal: %d, %q, %q; want status 143 and nothing else", status, &stdout, &stderr)
	}
}
