package vmm

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/hostio"
	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// The PC-like machine for Linux and other kernels: legacy devices on ports,
// virtio devices on MMIO, interrupt controllers and timer in KVM.
const (
	pcHole    memory.Addr = 0xd0000000 // low memory ends here at the latest; virtio devices
	pcHoleEnd memory.Addr = 1 << 32

	maxCPUs  = 16 // what the MP table has room for
	maxPCMem = 512 << 30

	uartIRQ = 4
)

// pcIRQs are the interrupt lines of the virtio devices, in order. The others belong
// to legacy devices, 3 to ACPI, 13 to the FPU.
var pcIRQs = [...]uint32{5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}

// pc is what the vCPUs reach besides memory.
type pc struct {
	mu    sync.Mutex // one vCPU at a time is at the ports
	ports devices.PortBus
	cut   int // 1 + the vCPU whose access was interrupted; 0 = none

	uart   *devices.UART
	room   *hostio.Event // the UART has room for input
	stop   *hostio.Event // ends the devices' workers
	input  *os.File      // what the console reads; nil = nothing
	virtio []virtioSlot

	used       atomic.Bool   // the guest has touched a port or a device
	unanswered atomic.Uint64 // accesses to ports and addresses where nothing is
}

// virtioSlot is a device with its doorbell and its interrupt.
type virtioSlot struct {
	name string // for messages
	dev  virtio.Device
	mmio *virtio.MMIO
	kick *hostio.Event

	interrupts atomic.Uint64
}

// buildPC is the wiring of a PC-like machine.
func (vm *VM) buildPC(img *loader.Image, kvmErr error) error {
	cfg := &vm.cfg
	if err := cfg.checkPC(); err != nil {
		return err
	}
	lowMem := min(cfg.Memory, uint64(pcHole))
	err := img.FitPC(lowMem)
	if err != nil {
		return err
	}
	rd := &initrd{}
	if cfg.Initrd != "" {
		if rd, err = openInitrd(cfg.Initrd, img, lowMem); err != nil {
			return err
		}
		defer rd.file.Close()
	}
	vm.timer.Record(MarkKernel)

	vm.pc = &pc{}
	if err := vm.attachPC(); err != nil {
		return err
	}
	cmdline, err := cfg.pcCommandLine(vm.pc.commandLine(), img.Linux.CmdlineMax)
	if err != nil {
		return err
	}
	if _, err := vm.createVM(img, kvmErr); err != nil {
		return err
	}
	if !cfg.emulatedRing0 {
		if err := checkRing0(vm.vcpu, vm.mem); err != nil {
			return err
		}
	}
	boot := vm.bootLinux
	if img.Kind == loader.KindPVH {
		boot = vm.bootPVH
	}
	// The first error counts. The steps after it do no harm: nothing runs yet.
	err = cmp.Or(
		rd.load(vm.mem),
		vm.mem.Put(pcCmdline, []byte(cmdline+"\x00")),
		vm.mem.Put(mpTableAddr, mpTable(cfg.CPUs)),
		vm.mem.Put(pcACPI, acpiTables(pcACPI, cfg.CPUs, len(vm.pc.virtio))),
		boot(img, cmdline, rd))
	vm.view = memory.NewView(vm.mem)
	for _, r := range vm.mem.Ranges() {
		err = cmp.Or(err, vm.view.Grant(r.Start, r.End, memory.ReadWrite))
	}
	err = cmp.Or(err, vm.wirePC())
	vm.timer.Record(MarkLoad)
	return err
}

// wirePC gives ports, addresses and interrupt lines to the devices.
func (vm *VM) wirePC() error {
	p := vm.pc
	err := cmp.Or(
		p.ports.Add(devices.COM1, devices.COM1+7, p.uart),
		p.ports.Add(devices.CMOSPort, devices.CMOSPort+1, devices.NewCMOS(time.Now)),
		p.ports.Add(devices.MarkPort, devices.MarkPort, vm.timer))
	power := devices.NewPower()
	for _, r := range devices.PowerPorts {
		err = cmp.Or(err, p.ports.Add(r[0], r[1], power))
	}
	for i := range p.virtio {
		s := &p.virtio[i]
		failures := new(uint64)
		interrupt := func() {
			vm.kvm.Pulse(pcIRQs[i])
			s.interrupts.Add(1)
			if f := vm.trace.Load(); f != nil {
				(*f)(&Event{VCPU: -1, Start: time.Since(vm.epoch), Device: s.name})
			}
		}
		s.mmio = virtio.NewMMIO(s.dev, vm.view, interrupt, s.kick.Signal, func(err error) { vm.logFailure(failures, s.name+":", "", "the guest's driver broke the rules", err) })
		vm.freezers = append(vm.freezers, s.mmio)
		err = cmp.Or(err, vm.kvm.IOEventFD(s.kick.PollFD(), virtioAddr(i)+virtio.QueueNotify, 4, 0))
	}
	return err
}

func virtioAddr(i int) uint64 { return uint64(pcHole) + uint64(i)*virtio.MMIOSize }

// commandLine tells a kernel where the devices are (Linux's
// Documentation/admin-guide/kernel-parameters.txt, virtio_mmio.device). Other
// kernels read exactly this form: 4K, 0x and a decimal interrupt line.
func (p *pc) commandLine() (words []string) {
	for i := range p.virtio {
		words = append(words, fmt.Sprintf("virtio_mmio.device=4K@%#x:%d", virtioAddr(i), pcIRQs[i]))
	}
	return words
}

// port is one access to I/O ports, from any vCPU. What no device answers reads as
// ones, as on a bus where nobody drives the lines.
func (p *pc) port(id int, io *kvm.IO) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used.Store(true)
	if !io.Out {
		fill(io.Data, 0xff)
	} else if p.cut != 0 && p.cut != id+1 {
		return devices.ErrInterrupted // that one goes on first
	} else {
		p.cut = 0
	}
	err := p.ports.Access(io.Port, io.Size, io.Data, io.Out)
	if err == devices.ErrInterrupted {
		p.cut = id + 1
	}
	if _, ok := err.(*devices.PortError); ok {
		p.unanswered.Add(1)
		return nil
	}
	return err
}

// mmio is one access to an address without memory, from any vCPU.
func (p *pc) mmio(m kvm.MMIO) {
	p.used.Store(true)
	s, off := p.slot(m.Addr), m.Addr%virtio.MMIOSize
	switch {
	case s == nil || off+uint64(m.Len) > virtio.MMIOSize:
		p.unanswered.Add(1)
		fill(m.Data, 0xff)
	case m.Write:
		s.mmio.Write(off, m.Data)
	default:
		s.mmio.Read(off, m.Data)
	}
}

// slot is the one whose device has its registers there, or nil.
func (p *pc) slot(addr uint64) *virtioSlot {
	if i := (addr - uint64(pcHole)) / virtio.MMIOSize; i < uint64(len(p.virtio)) { // below pcHole it is large
		return &p.virtio[i]
	}
	return nil
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// runPC runs the devices and all vCPUs. The first vCPU that ends decides how the
// VM has ended, and stops the others.
func (vm *VM) runPC() (res Result, err error) {
	p := vm.pc
	var devs, vcpus sync.WaitGroup
	for i := range p.virtio {
		s := &p.virtio[i]
		devs.Go(func() { s.mmio.Work(s.kick.PollFD(), p.stop.PollFD()) })
	}
	if p.input != nil && !vm.cfg.virtioConsole() {
		devs.Go(func() { hostio.Pump(int(p.input.Fd()), p.stop, p.room, p.uart.Input) })
	}
	defer func() {
		p.stop.Signal()
		vm.wake.Signal()
		devs.Wait()
	}()
	var once sync.Once
	run := func(v *kvm.VCPU) {
		r, e := vm.runVCPU(v)
		once.Do(func() {
			res, err = r, e
			vm.stop(errOtherVCPU)
		})
	}
	for _, v := range vm.vcpus[1:] {
		vcpus.Go(func() { run(v) })
	}
	run(vm.vcpu)
	vcpus.Wait()
	return res, err
}

// errOtherVCPU stops the vCPUs of a VM that one of them has ended.
var errOtherVCPU = errors.New("another vCPU has ended the VM")

// topology gives the CPUID table the identity of vCPU id of n, all cores of one
// package (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E).
func topology(c *kvm.CPUID, id, n int) {
	const (
		tscDeadline = 1 << 24
		hypervisor  = 1 << 31
		htt         = 1 << 28
	)
	width := uint32(bits.Len(uint(n - 1)))
	entries := c.Entries()
	for i := range entries {
		e := &entries[i]
		switch e.Function {
		case 1:
			e.EBX = e.EBX&0xffff | uint32(n)<<16 | uint32(id)<<24
			e.ECX |= tscDeadline | hypervisor
			e.EDX &^= htt
			if n > 1 {
				e.EDX |= htt
			}
		case 4:
			e.EAX = e.EAX&0x03ffffff | uint32(n-1)<<26
		case 0xb, 0x1f:
			e.EAX, e.EBX, e.ECX, e.EDX = 0, 0, e.Index, uint32(id)
			switch e.Index {
			case 0: // threads
				e.EBX, e.ECX = 1, 1<<8
			case 1: // cores
				e.EAX, e.EBX, e.ECX = width, uint32(n), 1|2<<8
			}
		case 0x80000008:
			e.ECX = e.ECX&^0xf0ff | width<<12 | uint32(n-1)
		case 0x8000001e:
			e.EAX, e.EBX, e.ECX = uint32(id), uint32(id), 0
		}
	}
}

// ErrNoRing0 is a KVM that cannot run a PC's kernel.
var ErrNoRing0 = errors.New("this KVM has no hardware virtualisation behind it and emulates ring 0, so that it cannot run Linux or any other PC kernel; hvt unikernels run")

// checkRing0 executes popcnt in ring 0, an instruction of every processor that
// KVM runs on and of none of the emulators that stand in for one. It uses the
// vCPU before anything else does; its registers are written afterwards.
func checkRing0(v *kvm.VCPU, mem *memory.Memory) error {
	code := []byte{
		0xf3, 0x0f, 0xb8, 0xc0, // popcnt ax, ax
		0xe6, 0xf4, // out 0xf4, al
	}
	const at = 0x1000
	b, err := mem.At(at, uint64(len(code)))
	if err != nil {
		return err
	}
	copy(b, code)
	defer clear(b)
	sregs, err := v.Sregs()
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err = cmp.Or(err, v.SetAll(&kvm.Regs{RIP: at, RFLAGS: 2}, &sregs)); err != nil {
		return err
	}
	if errno := runProbe(v); errno != 0 || v.Reason() != kvm.ExitIO {
		return &HostError{What: "KVM", Err: ErrNoRing0}
	}
	return nil
}
