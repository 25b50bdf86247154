package vmm

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

// fourDevices are what the guest of TestAttachFailures asks for.
var fourDevices = []loader.Device{
	{Name: "data", Type: loader.DeviceBlock},
	{Name: "service", Type: loader.DeviceNet},
	{Name: "logs", Type: loader.DeviceBlock},
	{Name: "admin", Type: loader.DeviceNet},
}

// TestAttachFailures has New fail after it has acquired as much as it can, and
// looks for what it left behind.
func TestAttachFailures(t *testing.T) {
	testutil.RequireKVM(t)
	enter := netNS(t)
	makeTap(t, "uvm0", 1500)
	makeTap(t, "uvm1", 1500)
	// Messages carry paths as the user gave them: relative ones keep them short.
	t.Chdir(t.TempDir())
	for name, size := range map[string]int64{"good.raw": 1024, "image.raw": 1000, "empty.raw": 0, "small.raw": 512} {
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	notTap, err := os.Open("good.raw")
	if err != nil {
		t.Fatal(err)
	}
	defer notTap.Close()
	regular, closed := int(notTap.Fd()), 1<<20

	good, other := Disk{Path: "good.raw"}, Disk{Path: "small.raw"}
	net0, net1 := Net{TAP: "uvm0"}, Net{TAP: "uvm1"}
	for _, tt := range []struct {
		name  string
		disks []Disk
		nets  []Net
		kind  any // pointer to the error's type
		want  string
	}{
		{"unknown disk", []Disk{good, {Name: "dta", Path: "small.raw"}}, []Net{net0, net1}, new(*ConfigError),
			`block device "dta": the guest's manifest does not declare it (it declares block devices "data", "logs")`},
		{"name of the other kind", []Disk{good, {Name: "service", Path: "small.raw"}}, []Net{net0, net1}, new(*ConfigError),
			`block device "service": the guest's manifest does not declare it (it declares block devices "data", "logs")`},
		{"unknown net", []Disk{good, other}, []Net{net0, {Name: "lan", TAP: "uvm1"}}, new(*ConfigError),
			`net device "lan": the guest's manifest does not declare it (it declares net devices "service", "admin")`},
		{"twice by name", []Disk{{Name: "logs", Path: "good.raw"}, {Name: "logs", Path: "small.raw"}}, []Net{net0, net1}, new(*ConfigError),
			`block device "logs": attached twice`},
		{"by name and by position", []Disk{{Name: "logs", Path: "good.raw"}, other}, []Net{net0, net1}, new(*ConfigError),
			`block device "logs": attached twice`},
		{"one too many", []Disk{good, other, other}, []Net{net0, net1}, new(*ConfigError),
			`block device number 3 is one too many: it declares block devices "data", "logs"`},
		{"none attached", nil, nil, new(*UnattachedError),
			`block device "data" is not attached; net device "service" is not attached; ` +
				`block device "logs" is not attached; net device "admin" is not attached`},
		{"some attached", []Disk{good}, []Net{{Name: "admin", TAP: "uvm1"}}, new(*UnattachedError),
			`net device "service" is not attached; block device "logs" is not attached`},
		{"odd size", []Disk{{Path: "image.raw"}, good}, []Net{net0, net1}, new(*CapacityError),
			`disk "data": image.raw is 1000 bytes, not a multiple of 512`},
		{"not whole blocks", []Disk{good, {Path: "small.raw", BlockSize: 4096}}, []Net{net0, net1}, new(*CapacityError),
			`disk "logs": small.raw is 512 bytes, need at least one block of 4096`},
		{"empty image", []Disk{good, {Path: "empty.raw"}}, []Net{net0, net1}, new(*CapacityError),
			`disk "logs": empty.raw is 0 bytes, need at least one block of 512`},
		{"missing image", []Disk{good, {Path: "none.raw"}}, []Net{net0, net1}, new(*HostError),
			`disk "logs": none.raw: open for writing: no such file or directory`},
		{"image is a directory", []Disk{good, {Path: ".", ReadOnly: true}}, []Net{net0, net1}, new(*HostError),
			`disk "logs": .: open: is a directory, need a regular file or a block device`},
		{"image is a FIFO", []Disk{good, {Path: "fifo"}}, []Net{net0, net1}, new(*HostError),
			`disk "logs": fifo: open: is a FIFO, need a regular file or a block device`},
		{"image twice", []Disk{good, good}, []Net{net0, net1}, new(*HostError),
			`disk "logs": good.raw: open: in use`},
		{"missing tap", []Disk{good, other}, []Net{net0, {TAP: "uvm7"}}, new(*HostError),
			`net "admin": uvm7: no such interface`},
		{"tap twice", []Disk{good, other}, []Net{net0, net0}, new(*HostError),
			`net "admin": uvm0: in use by another process`},
		{"not a tap", []Disk{good, other}, []Net{net0, {TAP: "lo"}}, new(*HostError),
			`net "admin": lo: `},
		{"descriptor of a file", []Disk{good, other}, []Net{net0, {FD: &regular}}, new(*HostError),
			`net "admin": fd `},
		{"descriptor that is not open", []Disk{good, other}, []Net{net0, {FD: &closed}}, new(*HostError),
			`net "admin": fd 1048576: not an open file descriptor`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			enter(t)
			g := guest{devices: fourDevices}
			g.halt(0)
			cfg := g.config()
			cfg.Disks, cfg.Nets = tt.disks, tt.nets
			wantNewFails(t, cfg, tt.kind, tt.want)
			// Every image is unlocked and every interface free again.
			cfg.Disks, cfg.Nets = []Disk{good, other}, []Net{net0, net1}
			newVM(t, cfg)
		})
	}
}

// wantNewFails checks that New fails with an error of the type that kind
// points to, with a text that begins with want, and leaves nothing behind.
func wantNewFails(t *testing.T, cfg Config, kind any, want string) {
	t.Helper()
	fds, maps, threads := len(testutil.FDs(t)), mappings(t), testutil.Threads(t)
	vm, err := New(cfg)
	if err == nil {
		vm.Close()
		t.Fatalf("New() = nil; want %q", want)
	}
	if !errors.As(err, kind) {
		t.Errorf("New() = %T; want %v", err, reflect.TypeOf(kind).Elem())
	}
	if !strings.HasPrefix(err.Error(), want) {
		t.Errorf("New() = %q; want it to begin with %q", err, want)
	}
	if n := len(testutil.FDs(t)); n != fds {
		t.Errorf("open descriptors after New failed = %d; want %d", n, fds)
	}
	if n := mappings(t); n != maps {
		t.Errorf("KVM mappings after New failed = %d; want %d", n, maps)
	}
	// The runtime may start a thread of its own at any time.
	if n := testutil.Threads(t); n > threads+4 {
		t.Errorf("threads after New failed = %d; want %d", n, threads)
	}
}

// mappings counts the vCPUs' mappings in the process's address space. (The
// runtime maps and unmaps memory of its own at any time.)
func mappings(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "kvm-vcpu")
}

// TestNewFailures has New fail for other reasons than devices.
func TestNewFailures(t *testing.T) {
	testutil.RequireKVM(t)
	dir := t.TempDir()
	path := image(t, 512)
	g := guest{devices: oneDisk}
	g.halt(0)
	file := filepath.Join(dir, "app.hvt")
	if err := os.WriteFile(file, g.elf(), 0o600); err != nil {
		t.Fatal(err)
	}
	base := Config{Kernel: file, Memory: testMem, Disks: []Disk{{Path: path}}}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		kind   any
		want   string
	}{
		{"no such kernel", func(c *Config) { c.Kernel = filepath.Join(dir, "none") }, new(*loader.Error), "kernel " + dir + "/none: no such file or directory"},
		{"kernel is a directory", func(c *Config) { c.Kernel = dir }, new(*loader.Error), "kernel " + dir + ": not a regular file"},
		{"kernel is an image", func(c *Config) { c.Kernel = path }, new(*loader.Error), "kernel " + path + ": not an ELF file"},
		{"arguments too long", func(c *Config) { c.Args = []string{strings.Repeat("x", 8192)} }, new(*CommandLineError), "guest arguments: 8192 bytes"},
		{"no KVM", func(c *Config) { c.KVM = filepath.Join(dir, "kvm") }, new(*HostError), "KVM: open " + dir + "/kvm: no such file or directory"},
		{"not KVM", func(c *Config) { c.KVM = "/dev/null" }, new(*HostError), "KVM: KVM_GET_API_VERSION"},
		{"bad config", func(c *Config) { c.CPUs = 2 }, new(*ConfigError), "2 CPUs: an hvt guest has exactly 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := base
			tt.change(&cfg)
			wantNewFails(t, cfg, tt.kind, tt.want)
			newVM(t, base)
		})
	}
}

// TestUndeclaredDevice attaches to a guest that asks for nothing.
func TestUndeclaredDevice(t *testing.T) {
	var g guest
	g.halt(0)
	for want, change := range map[string]func(*Config){
		"block device number 1 is one too many: it declares no block device": func(c *Config) { c.Disks = []Disk{{Path: "none"}} },
		"net device number 1 is one too many: it declares no net device":     func(c *Config) { c.Nets = []Net{{TAP: "none"}} },
	} {
		cfg := g.config()
		change(&cfg)
		wantNewFails(t, cfg, new(*ConfigError), want)
	}
}

// TestDescriptorsRunOut lets New fail at every descriptor that it needs.
func TestDescriptorsRunOut(t *testing.T) {
	testutil.RequireKVM(t)
	g := guest{devices: oneDisk}
	g.halt(0)
	cfg := Config{Kernel: filepath.Join(t.TempDir(), "app.hvt"), Memory: testMem, Disks: []Disk{{Path: image(t, 512)}}}
	if err := os.WriteFile(cfg.Kernel, g.elf(), 0o600); err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	testutil.CheckFDs(t)
	failed := map[string]bool{}
	for limit := uint64(3); ; limit++ {
		low := unix.Rlimit{Cur: limit, Max: old.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		vm, err := New(cfg)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			vm.Close()
			break
		}
		what, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "KVM: "), ":")
		what, _, _ = strings.Cut(what, " "+filepath.Dir(cfg.Kernel)) // names a temporary file
		failed[what] = true
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("New() with %d descriptors = %v (%T); want %v", limit, err, err, unix.EMFILE)
		}
		// The lock is free, or this would fail.
		newVM(t, cfg).Close()
	}
	// /dev/kvm is not among them: without it there is none for the kernel either.
	for _, what := range []string{"kernel", "wake-up event", `disk "data"`, "KVM_CREATE_VM", "KVM_CREATE_VCPU"} {
		if !failed[what] {
			t.Errorf("New() never failed at %q; want each of its descriptors once: %v", what, failed)
		}
	}
}

func TestUnstableTSC(t *testing.T) {
	if err := tscError(unix.EIO); !errors.Is(err, ErrUnstableTSC) {
		t.Errorf("tscError(EIO) = %v; want %v", err, ErrUnstableTSC)
	}
	if err := tscError(unix.EINVAL); !errors.Is(err, unix.EINVAL) {
		t.Errorf("tscError(EINVAL) = %v; want %v", err, unix.EINVAL)
	}
}
