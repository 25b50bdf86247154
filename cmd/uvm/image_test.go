package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/uvm-monitor/uvm/vmm"
)

// withImageProgram is the command argv with a uvm-image of the test's first on PATH, and caches of
// its own.
func withImageProgram(t *testing.T, script string, argv ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	if script != "" {
		if err := os.WriteFile(filepath.Join(dir, imageProgram), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := program(t, argv...)
	cmd.Env = append(cmd.Env, "PATH="+dir+":/usr/bin:/bin", "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "XDG_DATA_HOME="+filepath.Join(dir, "data"))
	return cmd
}

// TestRootfs hands its words on to another program.
func TestRootfs(t *testing.T) {
	got := run(t, withImageProgram(t, `printf '%s|' "$@"; grep SigBlk /proc/self/status; exit 3`, "uvm", "rootfs", "a b", "-o", "x", "--help"))
	wantQuiet(t, got, 3, "rootfs|a b|-o|x|--help|SigBlk:\t0000000000000000\n")
	wantLine(t, run(t, withImageProgram(t, "", "uvm", "rootfs", "x")), exitHost, "uvm-image is neither beside uvm", "nor on PATH")
}

func TestImageErrors(t *testing.T) {
	kernel := new(guest).halt(0).file(t)
	for _, tt := range []struct {
		name, script string
		args         []string
		status       int
		want         string
	}{
		{"no program", "", []string{"--kernel", kernel}, exitHost, "uvm-image is neither"},
		{"no kernel", "exit 0", nil, exitKernel, "no lupine-general.vmlinux in "},
		{"no such kernel", "exit 0", []string{"--kernel", "lupine-x"}, exitKernel, "make -C guests/lupine lupine-x builds it"},
		{"it fails", "echo uvm: why >&2; exit 1", []string{kernel}, 1, "uvm: why"},
		{"it is killed", "kill -9 $$", []string{kernel}, exitSignal + 9, "ended by a signal: killed"},
		// The guest is no PC, and so cannot have what an image needs.
		{"no Linux", "exit 0", []string{kernel}, exitUsage, "is an hvt unikernel: kernel command line"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := withImageProgram(t, tt.script, append([]string{"uvm", "run", "--image", "app.tar"}, tt.args...)...)
			wantLine(t, run(t, cmd), tt.status, tt.want)
		})
	}
}

// TestUseImage looks at what becomes of a configuration.
func TestUseImage(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nprintf '%s|' \"$@\" >&3\nprintf '80/tcp\\n443/tcp' >&4\n"
	if err := os.WriteFile(filepath.Join(dir, imageProgram), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	kernels := filepath.Join(dir, "data", "uvm", "kernels")
	if err := os.MkdirAll(kernels, 0o755); err != nil {
		t.Fatal(err)
	}
	kernel := filepath.Join(kernels, "lupine-general.vmlinux")
	if err := os.WriteFile(kernel, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/bin")
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	s := settingsOf(t, "--image", "--x", "--image-tag", "t", "--env", "A=b c", "--disk", "data", "--cmdline", "quiet init=/own", "--", "--a", "b c")
	cfg := s.vmConfig()
	ports, status := s.useImage(&cfg)
	if status >= 0 || !slices.Equal(ports, []string{"80/tcp", "443/tcp"}) {
		t.Fatalf("useImage = %q, %d; want the ports that uvm-image names, and to go on", ports, status)
	}
	if cfg.Kernel != kernel || cfg.Cmdline != "quiet init=/own" || len(cfg.Args) != 0 || len(cfg.Disks) != 2 || cfg.Disks[1].Path != "data" {
		t.Errorf("useImage makes %+v; want the kernel, the root disk first, and no arguments", cfg)
	}
	got, err := os.ReadFile(cfg.Disks[0].Path)
	if want := "fill|--ports|--tag|t|--env|A=b c|--|--x|--|--a|b c|"; err != nil || string(got) != want {
		t.Errorf("root disk = %q, %v; want what uvm-image wrote, %q", got, err, want)
	}
	// Nothing has a name that would stay behind.
	if files, err := os.ReadDir(filepath.Join(dir, "cache", "uvm", "images")); err != nil || len(files) != 0 {
		t.Errorf("the folder of images holds %v, %v; want nothing", files, err)
	}
	s.Cmdline = ""
	cfg = vmm.Config{Cmdline: "x"}
	if _, status := s.useImage(&cfg); status >= 0 || cfg.Cmdline != "x quiet init=/.uvm/init" {
		t.Errorf("command line = %q; want init and quiet at its end", cfg.Cmdline)
	}
}
