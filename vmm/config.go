package vmm

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// Config describes a VM. The zero value of each field means its default.
type Config struct {
	Kernel string // path of the kernel; the only field without a default
	// KernelFile is the kernel's content, if it does not lie in a file; Kernel
	// is then only its name in messages.
	KernelFile io.ReaderAt

	// Boot is the protocol for a kernel that offers more than one, KindPVH or
	// KindLinux; "" = by the file. KindHVT takes hvt guests only.
	Boot loader.Kind

	// Args is the guest's command line; joined by single spaces. Linux hands it to
	// init.
	Args   []string
	Memory uint64 // bytes; 0 = DefaultMemory or DefaultPCMemory. A multiple of 2 MiB up to 4 GiB, or 64 GiB for a sealed guest with uvm's own note; a PC's of 4 KiB up to 512 GiB
	CPUs   int    // 0 = 1; hvt guests have no more, a PC up to 16

	// The n-th net without a name takes the manifest's n-th net device, and
	// likewise the disks. A PC has them in this order.
	Nets  []Net
	Disks []Disk

	// A PC also has: words for the kernel's command line, an initial RAM disk, and
	// virtio devices of the caller's choice, as virtio.NewRNG or vsock.New.
	Cmdline string
	Initrd  string
	Virtio  []VirtioDevice

	// NetRing offers the network ring to an hvt guest that has nets, beside its
	// hypercalls: netring.New(), one for each VM; nil = no ring. NetRingStock keeps it
	// from guests with uvm's own note, which do better without, and lets it be given with
	// kernels that know none.
	NetRing      NetRing
	NetRingStock bool

	// Input returns what the guest reads from its console: a pipe, terminal or
	// file, which stays the caller's. It is called for guests that can read, which
	// hvt guests cannot; nil = no input.
	Input func() (*os.File, error)

	// Ring says where an hvt guest runs; "" = RingSealed. A PC has all its rings.
	Ring Ring

	// SealExecOnly makes a sealed guest's text execute-only by protection keys:
	// its own reads of it end the VM. It is an error where KVM has no keys.
	SealExecOnly bool

	// Console takes the guest's output; nil discards it. An *os.File (anything
	// with an Fd method) is written to directly, and a VM that waits for its
	// reader can still be stopped; any other Writer has to return by itself.
	Console io.Writer

	// ConsoleCopy also takes the guest's output, when Console has taken it; nil = nobody. It must not block, its
	// errors do not count, and several goroutines may write to it.
	ConsoleCopy io.Writer

	// Log takes the monitor's own words; nil discards them.
	Log *slog.Logger

	// Meter counts what the devices move, as meter.New's does; nil = Stats says nothing of
	// devices. It is for one VM.
	Meter devices.Meter

	// Timing has the time taken of each exit, which costs two readings of the clock.
	Timing bool

	// NoMarks leaves out the boot-time port 0x3f0: a guest that writes there
	// breaks the ABI, as under Solo5's own tender.
	NoMarks bool

	// ExecTime is when the process started, for the boot timeline; zero leaves
	// that mark out.
	ExecTime time.Time

	// TSSAvailable is for tests under QEMU's emulation of SVM, whose check of the
	// I/O bitmap wants the task register's segment available and not busy. It
	// leaves SMAP off, too.
	TSSAvailable bool

	// KVM is the path of the KVM device; "" = /dev/kvm.
	KVM string

	emulatedRing0 bool // for tests whose PC kernels need no more than KVM's emulator
}

// Ring is the privilege that an hvt guest has.
type Ring string

// The rings.
const (
	Ring0      Ring = "0"      // as under Solo5's tender
	RingSealed Ring = "sealed" // ring 3, under tables that the guest cannot reach
)

// The guest memory in bytes when Config.Memory is 0.
const (
	DefaultMemory   = 64 << 20
	DefaultPCMemory = 256 << 20
)

// Net attaches a TAP interface to a net device of the guest. Exactly one of
// TAP and FD is set.
type Net struct {
	Name string  // device in the guest's manifest; "" = by position
	TAP  string  // interface, which must exist and be up
	FD   *int    // inherited TAP descriptor with IFF_NO_PI; the VM uses a duplicate
	MAC  [6]byte // zero = random, locally administered; not checked
	MTU  int     // bytes; 0 = the interface's

	RxLimit, TxLimit devices.Limit // to the guest and from it, frames with their Ethernet header
}

// Disk attaches a raw image to a block device of the guest.
type Disk struct {
	Name      string // device in the guest's manifest; "" = by position
	Path      string // regular file or block device
	ReadOnly  bool   // writes fail, and other readers may use the image
	BlockSize int    // bytes, a power of two from 512 to 32768; 0 = 512
	Serial    string // at most 20 bytes, for a PC; "" = Name
	// Cache is "writeback" (or ""): the host's page cache, written back where the guest
	// flushes; "none": direct I/O (O_DIRECT); "unsafe": as writeback, but a flush does
	// nothing, and a crash of the host may lose or spoil all.
	Cache string
	Limit devices.Limit // reads and writes together
}

// VirtioDevice is a device that the caller of New adds to a PC.
type VirtioDevice struct {
	Name string // for messages, as: vsock
	// New makes the device. It is called once, in New, when the configuration, the
	// kernel and the disks are found to be sound. What it returns belongs to the VM,
	// which closes it with its other devices, also where New fails later; an error
	// becomes a *HostError, and has to leave the host as it was.
	New func() (virtio.Device, error)
}

// NetRing is the monitor's end of Solo5's network ring (docs/net-ring.md), which is not part
// of the core: package netring has one. It belongs to the VM from Attach on, which comes
// once, in New.
type NetRing interface {
	devices.Saver
	io.Closer
	// Attach makes the ring's memory, ringSize bytes from mmap, all of which the guest can
	// write at any time, and the eventfd doorbell. calls is what the guest's hypercalls
	// will work with: Attach has to replace in there what two goroutines cannot use at
	// the same time. After an error nothing has to be closed.
	Attach(calls *hypercall.Config) (mem []byte, doorbell int, err error)
	// Start serves the ring beside the vCPU. fail, which may be called from any goroutine,
	// ends the VM: the guest did what it must not. stop is called when the vCPU has
	// stopped, and returns when what it had left in the ring is carried out.
	Start(fail func(error)) (stop func())
	// Freeze has it do nothing until it is called with false; it is started, or will be.
	Freeze(on bool)
}

// ConfigError is a Config that cannot work, whatever the host.
type ConfigError struct{ Msg string }

func (e *ConfigError) Error() string { return e.Msg }

func configError(format string, args ...any) error {
	return &ConfigError{fmt.Sprintf(format, args...)}
}

// HostError is something that the host does not have or does not allow.
type HostError struct {
	What string // what was wanted, as: disk "data"
	Op   string // KVM's ioctl that failed, as KVM_CREATE_VM, or "open PATH"; else ""
	Err  error
}

// hostError makes an error of package kvm one of the host. Others stay what they are.
func hostError(err error) error {
	var op *kvm.OpError
	var host *HostError
	if errors.As(err, &op) && !errors.As(err, &host) {
		return &HostError{What: "KVM", Op: op.Op, Err: err}
	}
	return err
}

func (e *HostError) Error() string { return e.What + ": " + e.Err.Error() }

func (e *HostError) Unwrap() error { return e.Err }

const (
	hvtPage   = 2 << 20  // granularity of an hvt guest's memory: one large page
	maxMem    = 64 << 30 // of a sealed guest with uvm's own note
	hvtMaxMem = 4 << 30  // what hypercall structures and four page directories reach
)

// check validates what needs no look at the host and fills in defaults.
func (c *Config) check() error {
	switch {
	case c.Kernel == "" && c.KernelFile == nil:
		return configError("no kernel given")
	case c.Boot != "" && c.Boot != loader.KindHVT && c.Boot != loader.KindPVH && c.Boot != loader.KindLinux:
		return configError("boot protocol %q: want %s or %s", c.Boot, loader.KindPVH, loader.KindLinux)
	case c.Ring != "" && c.Ring != Ring0 && c.Ring != RingSealed:
		return configError("ring %q: want %s or %s", c.Ring, RingSealed, Ring0)
	case c.SealExecOnly && c.Ring == Ring0:
		return configError("execute-only text (--seal-exec-only) needs the ring %s, not %s", RingSealed, c.Ring)
	case c.CPUs < 0 || c.CPUs > maxCPUs:
		return configError("%d CPUs: want 1 to %d", c.CPUs, maxCPUs)
	case c.Memory > maxPCMem:
		return configError("guest memory of %s: at most %d GiB", formatBytes(c.Memory), maxPCMem>>30)
	}
	if c.CPUs = max(c.CPUs, 1); c.Meter == nil {
		c.Meter = devices.NoMeter{}
	}
	for i := range c.Nets {
		n := &c.Nets[i]
		switch {
		case (n.TAP == "") == (n.FD == nil):
			return configError("net %s: need either a TAP interface or a file descriptor", label(n.Name, i))
		case n.MTU != 0 && (n.MTU < 68 || n.MTU > 65535):
			return configError("net %s: MTU of %d bytes is not between 68 and 65535", label(n.Name, i), n.MTU)
		case !n.RxLimit.Valid() || !n.TxLimit.Valid():
			return configError("net %s: "+badBurst, label(n.Name, i))
		}
	}
	// The defaults below are for this VM alone: the slice belongs to the caller,
	// who may be building another VM from it at the same time.
	c.Disks = slices.Clone(c.Disks)
	for i := range c.Disks {
		d := &c.Disks[i]
		if d.Path == "" {
			return configError("disk %s: no path given", label(d.Name, i))
		} else if !d.Limit.Valid() {
			return configError("disk %s: "+badBurst, label(d.Name, i))
		}
		d.BlockSize = cmp.Or(d.BlockSize, 512)
		if b := d.BlockSize; b < 512 || b > 32768 || b&(b-1) != 0 {
			return configError("disk %s: block size of %d bytes is not a power of two from 512 to 32768", label(d.Name, i), b)
		}
		if !slices.Contains([]string{"", "writeback", "none", "unsafe"}, d.Cache) {
			return configError("disk %s: no cache mode %q (there are writeback, none and unsafe)", label(d.Name, i), d.Cache)
		}
	}
	return nil
}

const badBurst = "want a burst from 0 to 1h, and none without a rate"

// checkHVT validates what only concerns hvt guests.
func (c *Config) checkHVT() error {
	c.Ring, c.Memory = cmp.Or(c.Ring, RingSealed), cmp.Or(c.Memory, DefaultMemory)
	switch {
	case c.CPUs > 1:
		return configError("%d CPUs: an hvt guest has exactly 1", c.CPUs)
	case c.Cmdline != "" || c.Initrd != "" || len(c.Virtio) > 0:
		return configError("%s is an hvt unikernel: kernel command line, initrd, rng, vsock and other virtio devices are for Linux and other PC kernels", c.Kernel)
	case slices.ContainsFunc(c.Disks, func(d Disk) bool { return d.Serial != "" }):
		return configError("%s is an hvt unikernel: its disks have no serial numbers", c.Kernel)
	case c.Memory > maxMem:
		return configError("guest memory of %s: a guest has at most %s", formatBytes(c.Memory), formatBytes(maxMem))
	case c.Memory < hvtPage || c.Memory%hvtPage != 0:
		return configError("guest memory of %s: need a multiple of 2 MiB, at least 2 MiB (the next is %d MiB)",
			formatBytes(c.Memory), (c.Memory+hvtPage-1)/hvtPage*2)
	case len(c.Nets) == 0:
		c.NetRing = nil
	}
	return nil
}

// checkPC validates what only concerns the PC-like machine.
func (c *Config) checkPC() error {
	c.Memory = cmp.Or(c.Memory, DefaultPCMemory)
	switch {
	case c.Ring == RingSealed || c.SealExecOnly || c.NetRing != nil:
		return configError("%s is not an hvt unikernel: it runs in all rings and cannot be sealed, and there is no network ring", c.Kernel)
	case c.Memory%memory.PageSize != 0:
		return configError("guest memory of %s: need a multiple of 4 KiB", formatBytes(c.Memory))
	}
	n := len(c.Disks) + len(c.Virtio) + len(c.Nets)
	if c.virtioConsole() {
		n++
	}
	if n > len(pcIRQs) {
		return configError("%d virtio devices: a PC has at most %d", n, len(pcIRQs))
	}
	for i := range c.Disks {
		if d := &c.Disks[i]; d.BlockSize != 512 {
			return configError("disk %s: a PC's disk has blocks of 512 bytes, not %d", label(d.Name, i), d.BlockSize)
		} else if len(cmp.Or(d.Serial, d.Name)) > 20 {
			return configError("disk %s: %q is its serial number, at most 20 bytes (give a shorter serial=)", label(d.Name, i), cmp.Or(d.Serial, d.Name))
		}
	}
	return nil
}

// virtioConsole says that a PC's console is virtio's, as its kernel is told.
func (c *Config) virtioConsole() bool { return strings.Contains(c.Cmdline, "console=hvc0") }

// label names the i-th device of a kind in messages.
func label(name string, i int) string {
	if name != "" {
		return fmt.Sprintf("%q", name)
	}
	return fmt.Sprintf("number %d", i+1)
}

func formatBytes(n uint64) string {
	if n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

// The low memory of an hvt guest belongs to the monitor (hvt ABI 2, "Guest
// state at entry").
const (
	gpaGDT      memory.Addr = 0x1000
	gpaPML4     memory.Addr = 0x2000
	gpaPDPT     memory.Addr = 0x3000
	gpaPD       memory.Addr = 0x4000 // four of them
	gpaPT0      memory.Addr = 0x8000
	gpaBootInfo memory.Addr = 0x10000
	gpaLowEnd   memory.Addr = 0x100000
)
