package vmm

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/hostio"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// attach opens the host's end of every device in the manifest, fills in what
// the guest will read there, and returns the hypercalls' configuration. Files
// come first: an interface is only taken when nothing else can go wrong.
func (vm *VM) attach(m *loader.Manifest) (hypercall.Config, error) {
	var failures [hypercall.MaxHandles]uint64
	t := hypercall.Config{WakeFD: vm.wake.PollFD(), HostError: func(dev string, handle int, op string, err syscall.Errno) {
		vm.logFailure(&failures[handle], dev, m.Entries[handle].Name, op+" failed", err)
	}}
	var err error
	if t.Console, err = vm.console("console"); err != nil {
		return t, err
	}
	disks, nets := make([]int, len(vm.cfg.Disks)), make([]int, len(vm.cfg.Nets))
	for i := range disks {
		if disks[i], err = claim(m, loader.DeviceBlock, i, vm.cfg.Disks[i].Name); err != nil {
			return t, err
		}
	}
	for i := range nets {
		if nets[i], err = claim(m, loader.DeviceNet, i, vm.cfg.Nets[i].Name); err != nil {
			return t, err
		}
	}
	missing := slices.DeleteFunc(slices.Clone(m.Entries), func(e loader.Device) bool { return e.Attached || e.Type >= loader.DeviceReserved })
	if len(missing) > 0 {
		return t, &UnattachedError{missing}
	}
	for i, h := range disks {
		c, e := &vm.cfg.Disks[i], &m.Entries[h]
		d, err := openDisk(e.Name, c)
		if err != nil {
			return t, err
		}
		vm.closers = append(vm.closers, d)
		t.Disks[h], e.Capacity, e.BlockSize = vm.cfg.Meter.Disk(e.Name, d), uint64(d.Size()), uint16(c.BlockSize)
		both := devices.NewLimiter(c.Limit, time.Now)
		t.Limits[h] = [2]*devices.Limiter{both, both}
	}
	for i, h := range nets {
		c, e := &vm.cfg.Nets[i], &m.Entries[h]
		tap, mac, mtu, err := openNet(e.Name, c, false)
		if err != nil {
			return t, err
		}
		vm.closers = append(vm.closers, tap)
		t.NICs[h], e.MAC, e.MTU = vm.cfg.Meter.NIC(e.Name, tap), mac, uint16(mtu)
		t.Limits[h] = [2]*devices.Limiter{devices.NewLimiter(c.TxLimit, time.Now), devices.NewLimiter(c.RxLimit, time.Now)}
	}
	return t, nil
}

// The network ring's doorbell, and its memory in bytes: 49280 in whole pages.
const ringPort, ringSize = 0x600, 13 * memory.PageSize

// ringAt is where the network ring lies, in memory of its own that is in no view: what
// runs off the end of the guest's memory does not reach it.
func (vm *VM) ringAt() memory.Addr { return memory.Addr(vm.mem.Size() + hvtPage) }

// addRing attaches the network ring.
func (vm *VM) addRing(calls *hypercall.Config) error {
	mem, doorbell, err := vm.cfg.NetRing.Attach(calls)
	if err != nil {
		return &HostError{What: "network ring", Err: err}
	}
	vm.closers, vm.freezers = append(vm.closers, vm.cfg.NetRing), append(vm.freezers, vm.cfg.NetRing)
	return cmp.Or(vm.kvm.SetMemory(2, uint64(vm.ringAt()), mem[:ringSize]), vm.kvm.IOEventFD(doorbell, ringPort, 4, kvm.IOEventPort))
}

// claim finds the handle of a configured device and marks it attached: by name, or
// the i-th takes the i-th of its type.
func claim(m *loader.Manifest, typ loader.DeviceType, i int, name string) (handle int, err error) {
	var all []string // of the type, so far
	for h := range m.Entries {
		e := &m.Entries[h]
		if e.Type != typ {
			continue
		}
		if name == "" && len(all) == i || name != "" && e.Name == name {
			if e.Attached {
				return 0, configError("%v device %q: attached twice", typ, e.Name)
			}
			e.Attached = true
			return h, nil
		}
		all = append(all, strconv.Quote(e.Name))
	}
	declared := fmt.Sprintf("it declares %v devices %s", typ, strings.Join(all, ", "))
	if all == nil {
		declared = fmt.Sprintf("it declares no %v device", typ)
	}
	if name != "" {
		return 0, configError("%v device %q: the guest's manifest does not declare it (%s)", typ, name, declared)
	}
	return 0, configError("%v device number %d is one too many: %s", typ, i+1, declared)
}

// UnattachedError lists devices of the guest's manifest that Config leaves out.
type UnattachedError struct{ Devices []loader.Device }

func (e *UnattachedError) Error() string {
	var all []string
	for _, d := range e.Devices {
		all = append(all, fmt.Sprintf("%v device %q is not attached", d.Type, d.Name))
	}
	return strings.Join(all, "; ")
}

// openDisk opens and checks the host's end of the disk that messages call name.
func openDisk(name string, c *Disk) (*hostio.Disk, error) {
	d, err := hostio.OpenDisk(c.Path, c.ReadOnly, c.Cache, c.BlockSize)
	if err != nil {
		return nil, &HostError{What: fmt.Sprintf("disk %q", name), Err: err}
	}
	if size, block := d.Size(), int64(c.BlockSize); size < block || size%block != 0 {
		d.Close()
		return nil, &CapacityError{Name: name, Path: c.Path, Size: size, BlockSize: c.BlockSize}
	}
	return d, nil
}

// CapacityError is an image that is not made of whole blocks.
type CapacityError struct {
	Name, Path string
	Size       int64 // bytes
	BlockSize  int   // bytes
}

func (e *CapacityError) Error() string {
	if e.Size < int64(e.BlockSize) {
		return fmt.Sprintf("disk %q: %s is %d bytes, need at least one block of %d", e.Name, e.Path, e.Size, e.BlockSize)
	}
	return fmt.Sprintf("disk %q: %s is %d bytes, not a multiple of %d", e.Name, e.Path, e.Size, e.BlockSize)
}

// openNet attaches to the host's end of the net that messages call name, and
// settles MAC address and MTU. vnet says that frames have virtio's header.
func openNet(name string, c *Net, vnet bool) (t *hostio.Tap, mac [6]byte, mtu int, err error) {
	if c.FD != nil {
		t, err = hostio.TapFromFD(*c.FD, vnet)
	} else {
		t, err = hostio.OpenTap(c.TAP, vnet)
	}
	if err != nil {
		return nil, mac, 0, &HostError{What: fmt.Sprintf("net %q", name), Err: err}
	}
	if mac = c.MAC; mac == [6]byte{} {
		copy(mac[:], le64s(rand.Uint64()))
		mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	}
	return t, mac, cmp.Or(c.MTU, t.MTU()), nil
}

// console returns where output goes; name is for the Meter.
func (vm *VM) console(name string) (io.Writer, error) {
	out := cmp.Or(vm.cfg.Console, io.Discard)
	if w, ok := out.(interface{ Fd() uintptr }); ok {
		fd := int(w.Fd())
		if fd < 0 {
			return nil, configError("console: the file is closed")
		}
		out = hostio.NewConsole(fd, vm.wake)
	}
	if vm.cfg.ConsoleCopy != nil {
		out = &tee{out, vm.cfg.ConsoleCopy}
	}
	return vm.cfg.Meter.Console(name, out), nil
}

// tee copies what has been written, which may be less than was to be.
type tee struct{ to, also io.Writer }

func (t *tee) Write(b []byte) (int, error) {
	n, err := t.to.Write(b)
	t.also.Write(b[:n])
	return n, err
}

// logFailure logs what went wrong with a device; name is the guest's name for it, ""
// for the console. It counts what count counts, and is due the 1st, 2nd, 4th,
// 8th … time: the guest decides how many there are. One goroutine at a time uses count.
func (vm *VM) logFailure(count *uint64, dev, name, what string, err error) {
	if *count++; *count&(*count-1) != 0 {
		return
	}
	log := vm.log
	if name != "" {
		log = log.With("device", name)
	}
	log.Error(dev+" "+what, "error", err.Error(), "count", *count)
}
