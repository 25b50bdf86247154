package vmm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// pcELF makes a kernel of g's code: entered by PVH, whose note has pvh bytes, or
// without one (0) by the Linux protocol.
func pcELF(g *guest, pvh int) []byte { return hvtelf.PC{Code: g.code, Data: []byte{0}, PVH: pvh}.ELF() }

// pcGuest emits 32-bit and 64-bit code that is the same in both.
type pcGuest struct{ guest }

// serial prints n bytes from ESI.
//
//	66 ba f8 03  mov dx, 0x3f8
//	b9 imm32     mov ecx, n
//	f3 6e        rep outsb
func (g *pcGuest) serial(n uint32) {
	g.emit(append(append([]byte{0x66, 0xba, 0xf8, 0x03, 0xb9}, imm32(n)...), 0xf3, 0x6e)...)
}

// print shows n bytes at addr.
//
//	be imm32  mov esi, addr
func (g *pcGuest) print(addr uint32, n uint32) {
	g.emit(append([]byte{0xbe}, imm32(addr)...)...)
	g.serial(n)
}

// poweroff is QEMU's.
//
//	66 b8 00 20  mov ax, 0x2000
//	66 ba 04 06  mov dx, 0x604
//	66 ef        out dx, ax
func (g *pcGuest) poweroff() {
	g.emit(0x66, 0xb8, 0x00, 0x20, 0x66, 0xba, 0x04, 0x06, 0x66, 0xef)
}

// pcConfig is the least Config for g by PVH.
func (g *pcGuest) pcConfig() Config {
	return Config{Kernel: "test.elf", KernelFile: bytes.NewReader(pcELF(&g.guest, 4)), Memory: 2 << 20, emulatedRing0: true}
}

// runPCGuest runs the guest and returns what it printed.
func runPCGuest(t *testing.T, cfg Config) (string, Result, error) {
	t.Helper()
	testutil.RequireKVM(t)
	var out bytes.Buffer
	cfg.Console = &out
	vm, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := vm.Run(ctx)
	return out.String(), res, err
}

// TestPVHEntry looks at what a PVH kernel is given.
func TestPVHEntry(t *testing.T) {
	for _, noteSize := range []int{4, 8} {
		var g pcGuest
		g.emit(0x89, 0xde)       // mov esi, ebx
		g.serial(56)             // start_info
		g.emit(0x8b, 0x73, 0x18) // mov esi, [ebx+0x18]: the command line
		g.serial(6)
		g.print(uint32(pcZeroPage), 24*4)
		g.poweroff()
		cfg := g.pcConfig()
		cfg.KernelFile = bytes.NewReader(pcELF(&g.guest, noteSize))
		cfg.Cmdline, cfg.Memory = "console=x", 4<<30
		cfg.Initrd = t.TempDir() + "/initrd"
		if err := os.WriteFile(cfg.Initrd, []byte("ramdisk"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, res, err := runPCGuest(t, cfg)
		if err != nil || res.Status != 0 || res.Stop != devices.StopPowerOff {
			t.Fatalf("Run = %+v, %v; want a poweroff", res, err)
		}
		want := string(le64s(0x1_336ec578, 1<<32, uint64(pcModule), uint64(pcCmdline), uint64(pcACPI), uint64(pcZeroPage), 4)) + "reboot" +
			string(le64s(0, 0x9fc00, 1, 0x9fc00, 0x60400, 2, 0x100000, 0xcff00000, 1, 1<<32, 0x30000000, 1))
		if out != want {
			t.Errorf("start_info, command line and memory map:\n% x; want\n% x", out, want)
		}
	}
}

// TestLinuxEntry looks at what a kernel without a note is given.
func TestLinuxEntry(t *testing.T) {
	var g pcGuest
	g.emit(0x56)                               // push rsi
	g.emit(0x8b, 0xb6, 0x28, 0x02, 0x00, 0x00) // mov esi, [rsi+0x228]
	g.serial(14)
	g.emit(0x5e)                               // pop rsi
	g.emit(0x81, 0xc6, 0xe8, 0x01, 0x00, 0x00) // add esi, 0x1e8
	g.serial(1)
	g.poweroff()
	cfg := g.pcConfig()
	cfg.KernelFile = bytes.NewReader(pcELF(&g.guest, 0))
	out, res, err := runPCGuest(t, cfg)
	if err != nil || res.Stop != devices.StopPowerOff || out != "console=ttyS0 \x03" {
		t.Errorf("Run = %q, %+v, %v; want the command line, 3 entries in the memory map and a poweroff", out, res, err)
	}
}

// TestPCStops is every way by which a PC's guest ends itself.
func TestPCStops(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   []byte
		status int
		stop   devices.StopReason
	}{
		// e6 80 / 0f 01 1d imm32 / 0f 0b: out 0x80, al; lidt of zeros (in 32-bit code); ud2
		{"triple fault", []byte{0xe6, 0x80, 0x0f, 0x01, 0x1d, 0, 0, 0x05, 0, 0x0f, 0x0b}, 0, devices.StopReset},
		{"i8042", []byte{0xb0, 0xfe, 0xe6, 0x64}, 0, devices.StopReset},         // mov al, 0xfe; out 0x64, al
		{"debug exit", []byte{0xb0, 0x10, 0xe6, 0xf4}, 33, devices.StopExit},    // mov al, 16; out 0xf4, al
		{"Nanos", []byte{0x66, 0xba, 1, 5, 0xb0, 3, 0xee}, 3, devices.StopExit}, // mov dx, 0x501; mov al, 3; out dx, al
	} {
		var g pcGuest
		g.emit(c.code...)
		g.spin()
		_, res, err := runPCGuest(t, g.pcConfig())
		if err != nil || res.Status != c.status || res.Stop != c.stop {
			t.Errorf("%s: Run = %+v, %v; want status %d by %v", c.name, res, err, c.status, c.stop)
		}
	}
}

// TestPCTripleFault is a kernel that dies before it has done anything: no reset.
func TestPCTripleFault(t *testing.T) {
	var g pcGuest
	g.emit(0x0f, 0x01, 0x1d, 0, 0, 0x05, 0, 0x0f, 0x0b) // lidt of zeros; ud2
	_, res, err := runPCGuest(t, g.pcConfig())
	var fault *GuestError
	if !errors.As(err, &fault) || fault.Kind != FaultShutdown {
		t.Errorf("Run = %+v, %v; want a triple fault", res, err)
	}
}

// TestPCOpenBus reads where nothing is, and goes on.
func TestPCOpenBus(t *testing.T) {
	var g pcGuest
	g.emit(0x66, 0xba, 0xf8, 0x0c)       // mov dx, 0xcf8
	g.emit(0xed)                         // in eax, dx
	g.emit(0xa3, 0, 0, 0x18, 0)          // mov [0x180000], eax
	g.emit(0xa1, 0, 0, 0, 0xe0)          // mov eax, [0xe0000000]
	g.emit(0xa3, 4, 0, 0x18, 0)          // mov [0x180004], eax
	g.emit(0xa3, 0, 0, 0, 0xe0)          // mov [0xe0000000], eax
	g.emit(0xa1, 0, 0, 0, 0xd0)          // mov eax, [0xd0000000]: virtio, MagicValue
	g.emit(0xa3, 8, 0, 0x18, 0)          // mov [0x180008], eax
	g.emit(0x66, 0xba, 0xf0, 0x03, 0xec) // mov dx, 0x3f0; in al, dx: boot marks do not answer
	g.emit(0x66, 0xef)                   // out dx, ax
	g.print(0x180000, 12)
	g.poweroff()
	cfg := g.pcConfig()
	cfg.Virtio = []VirtioDevice{rngDevice}
	var console bytes.Buffer
	cfg.Console = &console
	testutil.RequireKVM(t)
	vm, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	res, err := vm.Run(t.Context())
	if n := vm.Unanswered(); n != 5 {
		t.Errorf("Unanswered() = %d; want 5", n)
	}
	out := console.String()
	if want := "\xff\xff\xff\xff\xff\xff\xff\xffvirt"; err != nil || res.Stop != devices.StopPowerOff || out != want {
		t.Errorf("Run = %q, %+v, %v; want %q and a poweroff", out, res, err, want)
	}
}

// TestPCRing0 has a kernel on the KVM as it is: it runs, or New says at once why
// it cannot.
func TestPCRing0(t *testing.T) {
	testutil.RequireKVM(t)
	var g pcGuest
	g.poweroff()
	cfg := g.pcConfig()
	cfg.emulatedRing0 = false
	vm, err := New(cfg)
	if err == nil {
		vm.Close()
	}
	var host *HostError
	switch {
	case inLab && err != nil:
		t.Errorf("New in the lab = %v; want success", err)
	case err != nil && !(errors.Is(err, ErrNoRing0) && errors.As(err, &host)):
		t.Errorf("New = %v; want success or ErrNoRing0", err)
	}
}

// TestPCCPUs has the first vCPU start all others by its local APIC, as Linux does
// (AMD64 APM volume 2, section 16.5), and waits for them.
func TestPCCPUs(t *testing.T) {
	for _, cpus := range []int{1, 2, maxCPUs} {
		var g pcGuest
		// At 0x8000, in 16-bit code: f0 ff 06 00 85  lock inc word [0x8500]; f4  hlt; eb fd  jmp -3
		g.emit(0xc7, 0x05, 0x00, 0x80, 0, 0, 0xf0, 0xff, 0x06, 0x00) // mov dword [0x8000], …
		g.emit(0xc7, 0x05, 0x04, 0x80, 0, 0, 0x85, 0xf4, 0xeb, 0xfd)
		const icr = 0xfee00300
		for _, command := range []uint32{0xc4500, 0xc4608} { // INIT, then SIPI to 0x8000, to all but itself
			g.emit(append(append([]byte{0xc7, 0x05}, imm32(icr)...), imm32(command)...)...)
		}
		g.emit(0x66, 0x81, 0x3d, 0x00, 0x85, 0, 0, byte(cpus-1), 0) // wait: cmp word [0x8500], cpus-1
		g.emit(0x75, 0xf5)                                          // jne wait
		g.poweroff()
		cfg := g.pcConfig()
		cfg.CPUs = cpus
		if out, res, err := runPCGuest(t, cfg); err != nil || res.Stop != devices.StopPowerOff {
			t.Errorf("%d CPUs: Run = %q, %+v, %v; want a poweroff when all are up", cpus, out, res, err)
		}
	}
}

// TestPCClose stops a PC whose CPUs sleep inside KVM.
func TestPCClose(t *testing.T) {
	testutil.RequireKVM(t)
	var g pcGuest
	g.emit(0xfa, 0xf4) // cli; hlt
	cfg := g.pcConfig()
	cfg.CPUs, cfg.Virtio = 3, []VirtioDevice{rngDevice}
	vm, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	if _, err := vm.Run(ctx); err != cause {
		t.Errorf("Run = %v; want %v", err, cause)
	}
	if err := vm.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

func TestPCConfig(t *testing.T) {
	var g pcGuest
	g.poweroff()
	dir := t.TempDir()
	empty, large := dir+"/empty", dir+"/large"
	for path, size := range map[string]int64{empty: 0, large: 4 << 20} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		f.Truncate(size)
		f.Close()
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.CPUs = 17 }, "17 CPUs: want 1 to 16"},
		{func(c *Config) { c.CPUs = -1 }, "-1 CPUs"},
		{func(c *Config) { c.Memory = 1 << 50 }, "at most 512 GiB"},
		{func(c *Config) { c.Memory = 1<<20 + 1 }, "multiple of 4 KiB"},
		{func(c *Config) { c.Memory = 64 << 10 }, "beyond"},
		{func(c *Config) { c.Ring = RingSealed }, "cannot be sealed"},
		{func(c *Config) { c.Initrd = dir + "/none" }, "no such file"},
		{func(c *Config) { c.Initrd = empty }, "not empty"},
		{func(c *Config) { c.Initrd = dir }, "regular file"},
		{func(c *Config) { c.Initrd = large }, "give the guest more memory"},
		{func(c *Config) { c.Cmdline = strings.Repeat("x", 3000) }, "bytes, the limit is"},
		{func(c *Config) { c.Cmdline = "a\x00b" }, "NUL"},
		{func(c *Config) { c.Boot = "bios" }, `boot protocol "bios"`},
		{func(c *Config) { c.Disks = []Disk{{Path: empty}} }, "at least one block"},
		{func(c *Config) { c.Disks = []Disk{{Path: large, BlockSize: 4096}} }, "blocks of 512 bytes"},
		{func(c *Config) { c.Disks = []Disk{{Path: large, Name: strings.Repeat("n", 21)}} }, "at most 20 bytes"},
		{func(c *Config) { c.Disks = []Disk{{Path: large, Name: "n", Serial: strings.Repeat("s", 21)}} }, `"sssssssssssssssssssss" is its serial number, at most 20 bytes`},
		{func(c *Config) { c.Disks = []Disk{{Path: "/proc/version", ReadOnly: true, Cache: "none"}} }, "use cache=writeback"},
		{func(c *Config) { c.Virtio = []VirtioDevice{vsockDevice(dir + "/none/sock")} }, "vsock: socket "},
		{func(c *Config) { c.Virtio = make([]VirtioDevice, 18) }, "18 virtio devices: a PC has at most 17"},
		{func(c *Config) { c.Cmdline, c.Virtio = "console=hvc0", make([]VirtioDevice, 17) }, "18 virtio devices"},
	} {
		cfg := g.pcConfig()
		c.change(&cfg)
		vm, err := New(cfg)
		if err == nil {
			vm.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New = %v; want an error with %q", err, c.want)
		}
	}
	hvt := new(guest).config()
	hvt.Cmdline = "x"
	if _, err := New(hvt); err == nil || !strings.Contains(err.Error(), "for Linux and other PC kernels") {
		t.Errorf("New of an hvt guest with a command line = %v; want an error", err)
	}
}

func TestPCCommandLine(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "console=ttyS0 reboot=t panic=-1 virtio"},
		{Config{Disks: []Disk{{}}}, "console=ttyS0 reboot=t panic=-1 root=/dev/vda rw virtio"},
		{Config{Disks: []Disk{{ReadOnly: true}}}, "console=ttyS0 reboot=t panic=-1 root=/dev/vda ro virtio"},
		{Config{Disks: []Disk{{}}, Cmdline: "root=/dev/vdb panic=1 quiet"}, "console=ttyS0 reboot=t virtio root=/dev/vdb panic=1 quiet"},
		{Config{Cmdline: "console=hvc0", Args: []string{"a", "b c"}}, "reboot=t panic=-1 virtio console=hvc0 -- a b c"},
		{Config{Cmdline: "x -- y", Args: []string{"a"}}, "console=ttyS0 reboot=t panic=-1 virtio x -- y a"},
		{Config{Cmdline: "xconsole=1"}, "console=ttyS0 reboot=t panic=-1 virtio xconsole=1"},
	} {
		if got, err := c.cfg.pcCommandLine([]string{"virtio"}, 2047); got != c.want || err != nil {
			t.Errorf("pcCommandLine of %+v = %q, %v; want %q", c.cfg, got, err, c.want)
		}
	}
}

// TestInitrdPlace puts RAM disks at the edges.
func TestInitrdPlace(t *testing.T) {
	path := t.TempDir() + "/initrd"
	if err := os.WriteFile(path, make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		max, end memory.Addr
		low      uint64
		want     memory.Addr // 0 = an error
	}{
		{0x7fffffff, 0x200000, 0x400000, 0x3fe000},
		{0x7fffffff, 0x200000, 0xd0000000, 0x7fffe000},
		{0x7fffffff, 0x3fe000, 0x400000, 0x3fe000},
		{0x7fffffff, 0x3ff000, 0x400000, 0},
		{0x7fffffff, 0x500000, 0x400000, 0},
		{0x37ffff, 0x200000, 0x400000, 0x37e000},
	} {
		rd, err := openInitrd(path, &loader.Image{Linux: &loader.Linux{InitrdMax: c.max, End: c.end}}, c.low)
		if (err == nil) != (c.want != 0) || err == nil && rd.at != c.want {
			t.Errorf("openInitrd(max %v, kernel to %v, memory to %#x) = %+v, %v; want %v", c.max, c.end, c.low, rd, err, c.want)
		}
		if err == nil {
			rd.file.Close()
		}
	}
}
