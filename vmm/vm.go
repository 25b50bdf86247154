package vmm

import (
	"cmp"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/hostio"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// TrapFrame is the state of a guest that died of a trap.
type TrapFrame = hypercall.TrapFrame

// VM is one virtual machine.
type VM struct {
	cfg   Config
	log   *slog.Logger
	timer *devices.BootTimer

	sys   *kvm.System
	kvm   *kvm.VM
	vcpus []*kvm.VCPU
	vcpu  *kvm.VCPU // the first one
	mem   *memory.Memory
	view  *memory.View
	code  *memory.View // what can be fetched, where that is more than view; else nil

	wake *hostio.Event // interrupts the waits of vCPUs and consoles

	pc     *pc            // nil for an hvt guest
	sealed *sealed        // nil for a guest in ring 0
	tables *memory.Memory // sealed: page tables that do not fit below the guest
	keyed  []mapping      // sealed: memory with a protection key

	ports devices.PortBus
	table *hypercall.Table // hvt; one of ports
	// closers are what release closes, in the order in which it was acquired.
	closers []io.Closer
	// freezers are what works beside the vCPUs.
	freezers []interface{ Freeze(on bool) }

	done chan struct{} // closed when Run returns

	epoch     time.Time // when New was called
	counters  []counters
	observing atomic.Bool // somebody wants times or events
	trace     atomic.Pointer[func(*Event)]
	debugger  atomic.Pointer[func(*DebugEvent) DebugAction]

	mu        sync.Mutex // guards the fields below, and stop against Close
	changed   sync.Cond  // of mu
	state     State
	stopCause error
	pausing   bool   // vCPUs are to park
	parked    int    // how many have
	resumes   uint64 // how often they were let go
}

// Names of the monitor's own marks on the boot timeline, in their usual order.
const (
	MarkExec    = "exec"        // the process started
	MarkKVM     = "kvm-open"    // /dev/kvm open
	MarkKernel  = "kernel"      // kernel file opened and checked
	MarkDevices = "devices"     // disks and nets attached
	MarkVM      = "vm-create"   // VM created
	MarkMemory  = "memory"      // guest memory reserved and given to KVM
	MarkLoad    = "load"        // kernel and boot information in memory
	MarkEntry   = "first-entry" // about to enter the guest for the first time
	MarkExit    = "exit"        // the guest has ended
)

// New builds a VM and leaves it ready to run. When it fails, nothing on the
// host has changed and nothing stays open. The error is a *ConfigError, a
// *loader.Error (the kernel) or a *HostError.
func New(cfg Config) (*VM, error) {
	vm := &VM{cfg: cfg, log: cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)), timer: devices.NewBootTimer(), done: make(chan struct{}), epoch: time.Now()}
	vm.observing.Store(cfg.Timing)
	vm.changed.L = &vm.mu
	if !cfg.ExecTime.IsZero() {
		vm.timer.RecordAt(MarkExec, cfg.ExecTime, 0)
	}
	if err := vm.build(); err != nil {
		vm.release()
		return nil, hostError(err)
	}
	return vm, nil
}

// build decides by the kernel which machine it is.
func (vm *VM) build() error {
	cfg := &vm.cfg
	if err := cfg.check(); err != nil {
		return err
	}
	kvmErr := vm.openKVM() // what is wrong with the kernel or the devices comes first
	img, err := loader.Open(cfg.Kernel, cfg.KernelFile, cfg.Boot)
	if err != nil {
		return err
	}
	defer img.Close()
	if cfg.NetRingStock && (img.Kind != loader.KindHVT || img.Native != nil) {
		cfg.NetRing = nil
	}
	if vm.wake, err = vm.newEvent("wake-up event"); err != nil {
		return err
	}
	if img.Kind != loader.KindHVT {
		return vm.buildPC(img, kvmErr)
	}
	return vm.buildHVT(img, kvmErr)
}

// buildHVT is all the wiring of an hvt guest: devices, KVM, memory, vCPU.
func (vm *VM) buildHVT(img *loader.Image, kvmErr error) error {
	cfg := &vm.cfg
	if err := cfg.checkHVT(); err != nil {
		return err
	}
	kernelEnd, err := img.Fit(cfg.Memory)
	if err != nil {
		return err
	}
	cmdline := strings.Join(cfg.Args, " ") // as Solo5's tender does: empty ones leave consecutive spaces
	if err := cmp.Or(vm.agree(img), checkCommandLine("guest arguments", cmdline, hvtCmdlineSize-1)); err != nil {
		return err
	}
	vm.timer.Record(MarkKernel)

	table, err := vm.attach(img.Manifest)
	if err != nil {
		return err
	}
	cpuid, err := vm.createVM(img, kvmErr)
	if err != nil {
		return err
	}
	tscKHz, err := vm.vcpu.TSCKHz()
	if err != nil {
		return tscError(err)
	}
	vm.view, err = hvtView(vm.mem, img, false)
	if err = cmp.Or(vm.writeBootInfo(kernelEnd, tscKHz*1000, img, cmdline), err); err != nil {
		return err
	}
	if cfg.Ring == RingSealed {
		err = vm.bootSealed(img, cpuid)
	} else {
		err = vm.bootRing0(img.Entry)
	}
	table.View, table.HasBatch = vm.view, img.Native != nil
	if cfg.NetRing != nil {
		err = cmp.Or(err, vm.addRing(&table))
	}
	vm.table = hypercall.New(table)
	// The first error counts. The steps after it do no harm: nothing runs yet.
	err = cmp.Or(err,
		protectSegments(vm.mem, img),
		vm.ports.Add(hypercall.FirstPort, hypercall.LastPort, vm.table))
	if !cfg.NoMarks {
		err = cmp.Or(err, vm.ports.Add(devices.MarkPort, devices.MarkPort, vm.timer))
	}
	vm.timer.Record(MarkLoad)
	return err
}

func (vm *VM) openKVM() (err error) {
	if vm.sys, err = kvm.Open(cmp.Or(vm.cfg.KVM, "/dev/kvm")); err != nil {
		return err
	}
	vm.closers = append(vm.closers, vm.sys)
	vm.timer.Record(MarkKVM)
	return nil
}

// createVM comes when the devices are attached: it makes memory and the KVM side, VM,
// and vCPUs that can do what KVM supports on this host. Then it loads the kernel.
func (vm *VM) createVM(img *loader.Image, kvmErr error) (cpuid *kvm.CPUID, err error) {
	vm.timer.Record(MarkDevices)
	if kvmErr != nil {
		return nil, kvmErr
	}
	if vm.pc != nil {
		vm.mem, err = memory.NewWithHole(vm.cfg.Memory, pcHole, pcHoleEnd)
	} else {
		vm.mem, err = memory.New(vm.cfg.Memory)
	}
	if err != nil {
		return nil, &HostError{What: "memory", Err: err}
	}
	vm.closers = slices.Insert(vm.closers, 0, io.Closer(vm.mem)) // goes last: devices may work on it
	if vm.kvm, err = vm.sys.CreateVM(); err != nil {
		return nil, err
	}
	vm.closers = append(vm.closers, vm.kvm)
	vm.timer.Record(MarkVM)
	if vm.pc != nil {
		if err := vm.kvm.CreatePC(); err != nil {
			return nil, err
		}
	}
	if cpuid, err = vm.sys.SupportedCPUID(); err != nil {
		return nil, err
	}
	vm.counters = make([]counters, vm.cfg.CPUs)
	for id := range vm.cfg.CPUs {
		v, err := vm.kvm.CreateVCPU(id)
		if err != nil {
			return nil, err
		}
		vm.vcpus, vm.closers = append(vm.vcpus, v), append(vm.closers, v)
		if vm.pc != nil {
			topology(cpuid, id, vm.cfg.CPUs)
		}
		if err := v.SetCPUID(cpuid); err != nil {
			return nil, err
		}
	}
	vm.vcpu = vm.vcpus[0]
	for slot, r := range vm.mem.Ranges() {
		err = cmp.Or(err, vm.kvm.SetMemory(uint32(slot), uint64(r.Start), r.Host))
	}
	vm.timer.Record(MarkMemory)
	return cpuid, cmp.Or(err, img.Load(vm.mem))
}

// release gives back whatever was acquired, in the reverse order.
func (vm *VM) release() error {
	var errs []error
	for _, c := range slices.Backward(vm.closers) {
		errs = append(errs, c.Close())
	}
	vm.closers = nil
	return errors.Join(errs...)
}

// Timeline returns the boot marks so far, the monitor's and the guest's, in
// the order in which they were made, and how many of the guest's came after
// its first 256. It may be called from any goroutine.
func (vm *VM) Timeline() (marks []devices.Mark, dropped uint64) { return vm.timer.Marks() }
