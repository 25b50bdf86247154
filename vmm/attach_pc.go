package vmm

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/hostio"
	"github.com/uvm-monitor/uvm/devices/virtio"
)

// attachPC makes the PC's devices and opens the host's end of each, files first:
// the first disk is the guest's /dev/vda.
func (vm *VM) attachPC() error {
	cfg, p := &vm.cfg, vm.pc
	out, err := vm.console("ttyS0")
	if err != nil {
		return err
	}
	if cfg.Input != nil {
		if p.input, err = cfg.Input(); err != nil {
			return err
		}
	}
	for i := range cfg.Disks {
		c := &cfg.Disks[i]
		name, failures := cmp.Or(c.Name, "vd"+string(rune('a'+i))), new(uint64)
		d, err := openDisk(name, c)
		if err != nil {
			return err
		}
		blk, err := virtio.NewBlk(cfg.Meter.Disk(name, d), c.ReadOnly, cmp.Or(c.Serial, c.Name), func(op string, err devices.Errno) {
			vm.logFailure(failures, "disk", name, op+" failed", err)
		})
		if err != nil {
			return &HostError{What: fmt.Sprintf("disk %q", name), Err: errors.Join(err, d.Close())}
		}
		blk.Limit = devices.NewLimiter(c.Limit, time.Now)
		vm.addVirtio(fmt.Sprintf("disk %q", name), blk)
	}
	// The console that the kernel is told of is the one that input goes to.
	if cfg.virtioConsole() {
		out, err := vm.console("hvc0")
		if err != nil {
			return err
		}
		in := -1
		if p.input != nil {
			in = int(p.input.Fd())
		}
		vm.addVirtio("console", virtio.NewConsole(out, in))
	}
	for _, d := range cfg.Virtio {
		dev, err := d.New()
		if err != nil {
			return &HostError{What: d.Name, Err: err}
		}
		vm.addVirtio(d.Name, dev)
	}
	for i := range cfg.Nets {
		c := &cfg.Nets[i]
		name := cmp.Or(c.Name, fmt.Sprintf("eth%d", i))
		tap, mac, mtu, err := openNet(name, c, true)
		if err != nil {
			return err
		}
		n := virtio.NewNet(cfg.Meter.NIC(name, tap), mac, mtu)
		n.RxLimit, n.TxLimit = devices.NewLimiter(c.RxLimit, time.Now), devices.NewLimiter(c.TxLimit, time.Now)
		vm.addVirtio(fmt.Sprintf("net %q", name), n)
	}
	events := []**hostio.Event{&p.room, &p.stop}
	for i := range p.virtio {
		events = append(events, &p.virtio[i].kick)
	}
	for _, e := range events {
		if *e, err = vm.newEvent("event"); err != nil {
			return err
		}
	}
	p.uart = devices.NewUART(out, func() { vm.kvm.Pulse(uartIRQ) })
	p.uart.InputRoom = p.room.Signal
	return nil
}

// addVirtio puts the device into the next slot. It belongs to the VM from now on.
func (vm *VM) addVirtio(name string, dev virtio.Device) {
	vm.closers = append(vm.closers, dev)
	vm.pc.virtio = append(vm.pc.virtio, virtioSlot{name: name, dev: dev})
}

// newEvent makes an event that is released with the VM.
func (vm *VM) newEvent(what string) (*hostio.Event, error) {
	e, err := hostio.NewEvent()
	if err != nil {
		return nil, &HostError{What: what, Err: err}
	}
	vm.closers = append(vm.closers, e)
	return e, nil
}
