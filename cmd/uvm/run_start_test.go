package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

// TestUsageErrors are the failures that need neither a kernel nor KVM.
func TestUsageErrors(t *testing.T) {
	const usage = exitUsage
	for _, tt := range []struct {
		args string
		want []string // in the one line on stderr
	}{
		{"frobnicate", []string{`unknown command "frobnicate"`, "uvm --help"}},
		{"--frobnicate", []string{`unknown command "--frobnicate"`}},
		{"run", []string{"no kernel given", "uvm run KERNEL"}},
		{"run -m 64M", []string{"no kernel given"}},
		{"run -- a", []string{"no kernel given"}},
		{"run k extra", []string{`unexpected argument "extra"`, "after --"}},
		{"run k --frobnicate", []string{"unknown flag: --frobnicate", "after --"}},
		{"run -m 64M k --frobnicate", []string{"unknown flag: --frobnicate", "after --"}},
		{"run k -z", []string{"unknown shorthand flag: 'z'", "after --"}},
		{"run k -m", []string{"flag needs an argument", "-m"}},
		{"run k -m big", []string{`"big"`, "--memory", "64M"}},
		{"run k -m 0", []string{`"0"`, "--memory"}},
		{"run k --timeout 5", []string{`"5"`, "--timeout", "5s"}},
		{"run k --cpus two", []string{`"two"`, "--cpus"}},
		{"run k --net tap0,ipv4=1", []string{"--net", "ipv4=1", "mac=, mtu=, ip=, gw=, bridge=, netns=, args=, bps="}},
		{"run k --net tap0,bridge=", []string{"--net", "bridge= names nothing"}},
		{"run k --net tap0,netns", []string{"--net", "netns= names nothing"}},
		{"run k --net tap0,ip=1", []string{"--net", `"1"`, "10.0.0.2/24"}},
		{"run k --net tap0,ip=10.0.0.2/33", []string{"--net", "10.0.0.2/33", "10.0.0.2/24"}},
		{"run k --net tap0,ip=10.0.0.256/24", []string{"--net", "10.0.0.256/24"}},
		{"run k --net tap0,gw=10.0.0.1", []string{"--net", "gw=10.0.0.1 without ip="}},
		{"run k --env A=b", []string{"--env are for --image"}},
		{"run --image x --env A=b k extra", []string{`unexpected argument "extra"`}},
		{"run k --disk /a=b", []string{"--disk", `"/a"`, `\=`}},
		{"run k --console tty", []string{`--console "tty"`, "stdio, none, log or file:PATH"}},
		{"run k --console file:", []string{`--console "file:"`}},
		{"run k --log-level loud", []string{`--log-level "loud"`, "debug, info, warn or error"}},
		{"run k --log-format xml", []string{`--log-format "xml"`, "text or json"}},
		{"run k --config /missing.json", []string{"--config", "/missing.json", "no such file"}},
		{"run --config /dev/null", []string{"--config", "EOF"}},
		{"inspect", []string{"no kernel given", "uvm inspect KERNEL"}},
		{"inspect a b", []string{`unexpected argument "b"`}},
		{"inspect --frobnicate", []string{"unknown flag: --frobnicate"}},
		{"doctor now", []string{`unexpected argument "now"`}},
		{"version --frobnicate", []string{"unknown flag"}},
		{"version 2", []string{`unexpected argument "2"`}},
		{"completion", []string{"bash|zsh|fish"}},
		{"completion tcsh", []string{`unknown shell "tcsh"`}},
		{"completion bash zsh", []string{"one shell"}},
	} {
		got := uvm(t, strings.Fields(tt.args)...)
		t.Run(tt.args, func(t *testing.T) {
			wantLine(t, got, usage, tt.want...)
			if got.stdout != "" {
				t.Errorf("stdout = %q; want nothing", got.stdout)
			}
		})
	}
	// Before the kernel a wrong flag is just wrong, and so is a wrong value.
	for _, args := range []string{"--frobnicate k", "k -m 0", "k -m"} {
		if got := uvm(t, append([]string{"run"}, strings.Fields(args)...)...); strings.Contains(got.stderr, "after --") {
			t.Errorf("uvm run %s: stderr = %q; want no hint about guest arguments", args, got.stderr)
		}
	}
	if got := uvm(t); got.status != usage || !strings.HasPrefix(got.stderr, "uvm runs unikernels") || got.stdout != "" {
		t.Errorf("uvm without words = %+v; want status %d and the usage on stderr", got, usage)
	}
}

// start is a start that has to fail.
type start struct {
	name   string
	args   []string
	status int
	want   []string // in the one line on stderr
}

// startFailures need no KVM: they end before it is opened.
func startFailures(t *testing.T) []start {
	dir := t.TempDir()
	elf := new(guest).halt(0).elf()
	ok := hello(t)
	net, disk, disks, both := withDevices(t, oneNet), withDevices(t, oneDisk), withDevices(t, twoDisks), withDevices(t, netDisk)
	good, odd, empty := image(t, 1<<20), image(t, 1000), image(t, 0)
	text := writeFile(t, "text", []byte(strings.Repeat("not a kernel\n", 10)))
	unknown := withDevices(t, []loader.Device{{Name: "gpu", Type: 7}})
	return []start{
		{"missing file", []string{dir + "/missing"}, 127, []string{dir + "/missing", "no such file"}},
		{"directory", []string{dir}, 127, []string{dir, "not a regular file"}},
		{"not ELF", []string{text}, 127, []string{text, "not an ELF file"}},
		{"empty file", []string{writeFile(t, "empty", nil)}, 127, []string{"truncated"}},
		{"32-bit", []string{broken(t, elfClass, 1)}, 127, []string{"not a 64-bit ELF file"}},
		{"truncated headers", []string{writeFile(t, "short", elf[:100])}, 127, []string{"truncated"}},
		{"no note", []string{broken(t, noteABI+noteType, 0)}, 127, []string{"note of 140 bytes, where 136 are left"}},
		{"other target", []string{broken(t, noteABIDesc, 2)}, 127, []string{"hvt"}},
		{"other ABI version", []string{broken(t, noteABIDesc+4, 3)}, 127, []string{"version 3"}},
		{"no manifest", []string{broken(t, noteMFT+noteType, 0)}, 127, []string{"manifest"}},
		{"bad manifest", []string{broken(t, noteMFTDesc, 9)}, 127, []string{"manifest", "version 9"}},

		{"two CPUs", []string{ok, "--cpus", "2"}, 125, []string{"2 CPUs", "exactly 1"}},
		{"odd memory", []string{ok, "-m", "3"}, 125, []string{"3 MiB", "multiple of 2 MiB", "4 MiB"}},
		{"little memory", []string{ok, "-m", "64K"}, 125, []string{"65536 bytes", "2 MiB"}},
		{"much memory", []string{ok, "-m", "8G"}, 125, []string{"8192 MiB", "4096 MiB"}},
		{"long arguments", []string{ok, "--", strings.Repeat("x", 8192)}, 125, []string{"8192 bytes", "8191"}},

		{"net left out", []string{net}, 125, []string{`net device "service" is not attached`, "--net service="}},
		{"disk left out", []string{disk}, 125, []string{`block device "storage" is not attached`, "--disk storage="}},
		{"both left out", []string{both}, 125, []string{"--net service=", "--disk storage="}},
		{"one of two left out", []string{disks, "--disk", good}, 125, []string{`"logs" is not attached`, "--disk logs="}},
		{"device of unknown type", []string{unknown}, 125, []string{`"gpu" is not attached`}},
		{"unknown net", []string{net, "--net", "bogus=tap0"}, 125, []string{`"bogus"`, "manifest", `"service"`}},
		{"unknown disk", []string{disk, "--disk", "bogus=" + good}, 125, []string{`"bogus"`, "manifest", `"storage"`}},
		{"net name for a disk", []string{both, "--disk", "service=" + good}, 125, []string{`"service"`, `"storage"`}},
		{"twice by name", []string{disk, "--disk", "storage=" + good, "--disk", "storage=" + good}, 125, []string{`"storage"`, "twice"}},
		{"twice by position", []string{disk, "--disk", good, "--disk", "storage=" + good}, 125, []string{`"storage"`, "twice"}},
		{"too many disks", []string{disk, "--disk", good, "--disk", good}, 125, []string{"number 2 is one too many", `"storage"`}},
		{"none asked for", []string{ok, "--net", "tap0"}, 125, []string{"number 1 is one too many", "no net device"}},
		{"block size", []string{disk, "--disk", good + ",block-size=1000"}, 125, []string{"1000", "power of two"}},
		{"MTU", []string{net, "--net", "tap0,mtu=10"}, 125, []string{"MTU of 10", "68"}},
		{"odd image", []string{disk, "--disk", odd}, 125, []string{odd, "1000 bytes", "512"}},
		{"odd for the block size", []string{disk, "--disk", image(t, 5120) + ",block-size=4096"}, 125, []string{"5120 bytes", "multiple of 4096"}},
		{"empty image", []string{disk, "--disk", empty}, 125, []string{empty, "0 bytes", "512"}},

		{"missing image", []string{disk, "--disk", dir + "/missing.img"}, 126, []string{`"storage"`, "missing.img", "no such file"}},
		{"directory as image", []string{disk, "--disk", dir}, 126, []string{dir, "directory"}},
		{"device file as image", []string{disk, "--disk", "/dev/null"}, 126, []string{"/dev/null", "character device"}},
		{"image given to two disks", []string{disks, "--disk", good, "--disk", good}, 126, []string{good, "in use"}},
		{"missing tap", []string{net, "--net", "uvmnone0"}, 126, []string{"uvmnone0", "no such interface", "ip tuntap add"}},
		{"not a tap", []string{net, "--net", "lo"}, 126, []string{"lo"}},
		{"long interface name", []string{net, "--net", "a234567890123456"}, 126, []string{"a234567890123456", "15 characters"}},
		{"closed descriptor", []string{net, "--net", "fd:99"}, 126, []string{"fd 99", "not an open file descriptor"}},
		{"other descriptor", []string{net, "--net", "fd:0"}, 126, []string{"fd 0", "not a TAP descriptor"}},
		{"console in a missing directory", []string{ok, "--console", "file:" + dir + "/no/c"}, 126, []string{"--console", dir + "/no/c"}},
		{"console on a directory", []string{ok, "--console", "file:" + dir}, 126, []string{"--console", "directory"}},
	}
}

// TestStartFailures has every start fail with a console file, an image and a
// report on the command line, none of which it may change.
func TestStartFailures(t *testing.T) {
	testutil.Watchdog(t)
	for _, tt := range startFailures(t) {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			args := append([]string{"run", "--boot-report", dir + "/report.json", "--boot-summary"}, tt.args...)
			if !strings.Contains(tt.name, "console") {
				args = append([]string{args[0], "--console", "file:" + dir + "/console"}, args[1:]...)
			}
			got := uvm(t, args...)
			wantLine(t, got, tt.status, tt.want...)
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("files after a start that failed = %v, %v; want none", left, err)
			}
		})
	}
}

// TestTruncatedSegment has a file end inside a segment, which shows when
// everything else is there.
func TestTruncatedSegment(t *testing.T) {
	testutil.RequireKVM(t)
	elf := (&guest{devices: oneDisk}).halt(0).elf()
	kernel, disk, console := writeFile(t, "cut", elf[:len(elf)-1]), image(t, 512), filepath.Join(t.TempDir(), "console")
	wantLine(t, uvm(t, "run", kernel, "--disk", disk, "--console", "file:"+console), exitKernel, kernel, "truncated")
	if _, err := os.Stat(console); !os.IsNotExist(err) {
		t.Errorf("console file after a start that failed: %v; want none", err)
	}
}

// TestFailureLeavesFiles checks what was there before a start that fails.
func TestFailureLeavesFiles(t *testing.T) {
	disks, disk := withDevices(t, twoDisks), image(t, 1<<20)
	console := writeFile(t, "console", []byte("before\n"))
	report := writeFile(t, "report.json", []byte("{}\n"))
	got := uvm(t, "run", disks, "--console", "file:"+console, "--boot-report", report, "--disk", disk, "--disk", "/missing.img")
	wantLine(t, got, exitHost, "/missing.img")
	for path, want := range map[string]string{console: "before\n", report: "{}\n"} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s = %q, %v after a start that failed; want %q", filepath.Base(path), b, err, want)
		}
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("lock of the image after a start that failed: %v; want it to be free", err)
	}
	// And the other way round: while somebody holds the lock, nothing starts.
	wantLine(t, uvm(t, "run", withDevices(t, oneDisk), "--disk", disk), exitHost, disk, "in use")
	wantLine(t, uvm(t, "run", withDevices(t, oneDisk), "--disk", disk+",ro"), exitHost, disk, "in use")
}

// emptyDev gives the calling test a mount namespace of its own with nothing in
// /dev. Its goroutine stays locked to a thread that ends with it, and programs
// that it starts are in there too.
func emptyDev(t *testing.T) {
	t.Helper()
	testutil.RequireRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatalf("unshare(CLONE_NEWNS) = %v; want a mount namespace (root needs CAP_SYS_ADMIN)", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", "/dev", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
}

// noStdin keeps package exec from opening /dev/null, which the namespaces of
// these tests may not have.
func noStdin(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	f, err := os.Open(writeFile(t, "stdin", nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	cmd.Stdin = f
	return cmd
}

// TestKVMDenied runs the program as a user who may not open /dev/kvm.
func TestKVMDenied(t *testing.T) {
	// A file in its place, since /dev/kvm itself may be open to everybody.
	emptyDev(t)
	if err := os.WriteFile("/dev/kvm", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	as := func(argv ...string) *exec.Cmd {
		cmd := noStdin(t, program(t, argv...))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		// The directories of the program and of the guest are closed to that
		// user: both are reached through descriptors, 3 and 4 over there. 5 is
		// for a program built with -cover.
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "GOCOVERDIR=/proc/self/fd/5")
		for _, path := range []string{cmd.Path, hello(t), dir} {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		cmd.Path = "/proc/self/fd/3"
		return cmd
	}
	const kernel = "/proc/self/fd/4"
	wantLine(t, run(t, as("uvm", "run", kernel)), exitHost, "/dev/kvm", "permission denied", "usermod -aG kvm")

	got := run(t, as("uvm", "doctor"))
	if got.status != exitHost || got.stderr != "" || !strings.HasPrefix(got.stdout, "fail  KVM device: /dev/kvm may not be opened by this user\n      to mend it: sudo usermod -aG kvm $USER") {
		t.Errorf("uvm doctor = %+v; want status %d and the remedy", got, exitHost)
	}
	got = run(t, as(solo5Name, kernel))
	if want := "solo5-hvt: Could not open: /dev/kvm: Permission denied\n"; got.status != 1 || got.stderr != want {
		t.Errorf("solo5-hvt = %+v; want status 1, stderr %q", got, want)
	}
}

// TestKVMMissing runs the program where there is no /dev/kvm.
func TestKVMMissing(t *testing.T) {
	emptyDev(t)
	kernel := hello(t)
	got := run(t, noStdin(t, program(t, "uvm", "run", kernel)))
	wantLine(t, got, exitHost, "/dev/kvm", "no such file", "kvm_intel or kvm_amd", "uvm doctor")

	got = run(t, noStdin(t, program(t, "uvm", "doctor")))
	if got.status != exitHost || got.stderr != "" || !strings.Contains(got.stdout, "fail  KVM device: /dev/kvm does not exist\n") ||
		!strings.Contains(got.stdout, "note  TUN/TAP: /dev/net/tun does not exist\n      to mend it: sudo modprobe tun\n") {
		t.Errorf("uvm doctor = %+v; want status %d, KVM to fail and TUN/TAP to be a note", got, exitHost)
	}
	got = run(t, noStdin(t, program(t, solo5Name, kernel)))
	if want := "solo5-hvt: Could not open: /dev/kvm: No such file or directory\n"; got.status != 1 || got.stderr != want {
		t.Errorf("solo5-hvt = %+v; want status 1, stderr %q", got, want)
	}
}
