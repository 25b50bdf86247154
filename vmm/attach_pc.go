package vmm

import (
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
	out, err := vm.console()
	if err != nil {
		return err
	}
	if p.uartIRQ, err = vm.newEvent(); err != nil {
		return err
	}
	if p.room, err = vm.newEvent(); err != nil {
		return err
	}
	p.uart, p.cmos, p.power = devices.NewUART(out, p.uartIRQ.Signal), devices.NewCMOS(time.Now), devices.NewPower()
	p.uart.InputRoom = p.room.Signal
	if cfg.Input != nil {
		if p.input, err = cfg.Input(); err != nil {
			return err
		}
	}
	for i := range cfg.Disks {
		c := &cfg.Disks[i]
		name := c.Name
		if name == "" {
			name = "vd" + string(rune('a'+i))
		}
		d, err := openDisk(name, c)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("disk %q", name)
		log := vm.failureLog(what)
		blk, err := virtio.NewBlk(d, c.ReadOnly, c.Name, func(op string, err devices.Errno) { log(op+" failed", err) })
		if err != nil {
			return &HostError{What: what, Err: errors.Join(err, d.Close())}
		}
		if err := vm.addVirtio(what, blk); err != nil {
			return err
		}
	}
	// The console that the kernel is told of is the one that input goes to.
	if cfg.virtioConsole() {
		out, err := vm.console()
		if err != nil {
			return err
		}
		in := -1
		if p.input != nil {
			in = int(p.input.Fd())
		}
		if err := vm.addVirtio("console", virtio.NewConsole(out, in)); err != nil {
			return err
		}
	}
	for _, d := range cfg.Virtio {
		dev, err := d.New()
		if err != nil {
			return &HostError{What: d.Name, Err: err}
		}
		if err := vm.addVirtio(d.Name, dev); err != nil {
			return err
		}
	}
	for i := range cfg.Nets {
		name := cfg.Nets[i].Name
		if name == "" {
			name = fmt.Sprintf("eth%d", i)
		}
		tap, mac, mtu, err := openNet(name, &cfg.Nets[i], true)
		if err != nil {
			return err
		}
		if err := vm.addVirtio(fmt.Sprintf("net %q", name), virtio.NewNet(tap, mac, mtu)); err != nil {
			return err
		}
	}
	return nil
}

// failureLog logs what goes wrong with a device, as often as rateLimit says.
func (vm *VM) failureLog(device string) func(what string, err error) {
	var failures rateLimit
	return func(what string, err error) {
		if n, due := failures.due(); due {
			vm.log.Error(device+": "+what, "error", err.Error(), "count", n)
		}
	}
}

// addVirtio puts the device into the next slot. It belongs to the VM from now on,
// also if there is an error.
func (vm *VM) addVirtio(name string, dev virtio.Device) (err error) {
	vm.closers = append(vm.closers, dev)
	s := virtioSlot{name: name, dev: dev}
	if s.kick, err = vm.newEvent(); err != nil {
		return err
	}
	if s.irq, err = vm.newEvent(); err != nil {
		return err
	}
	vm.pc.virtio = append(vm.pc.virtio, s)
	return nil
}

// newEvent makes an event that is released with the VM.
func (vm *VM) newEvent() (*hostio.Event, error) {
	e, err := hostio.NewEvent()
	if err != nil {
		return nil, &HostError{What: "event", Err: err}
	}
	vm.closers = append(vm.closers, e)
	return e, nil
}
