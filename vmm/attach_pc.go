package vmm

import (
	"fmt"
	"strings"
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
	if p.uartIRQ, err = vm.newEvent("event"); err != nil {
		return err
	}
	if p.room, err = vm.newEvent("event"); err != nil {
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
		what, failures := fmt.Sprintf("disk %q", name), new(rateLimit)
		if err := vm.addVirtio(what, virtio.NewBlk(d, c.ReadOnly, c.Name, func(op string, err devices.Errno) {
			if n, due := failures.due(); due {
				vm.log.Error(what+": "+op+" failed", "error", err.Error(), "count", n)
			}
		})); err != nil {
			return err
		}
	}
	if cfg.RNG {
		if err := vm.addVirtio("rng", virtio.NewRNG()); err != nil {
			return err
		}
	}
	// The console that the kernel is told of is the one that input goes to.
	if strings.Contains(cfg.Cmdline, "console=hvc0") {
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
		p.hvc = true
	}
	if cfg.Vsock != "" {
		dev, err := virtio.NewVsock(guestCID, cfg.Vsock)
		if err != nil {
			return &HostError{What: "vsock", Err: err}
		}
		if err := vm.addVirtio("vsock", dev); err != nil {
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

// guestCID is the guest's vsock address. It needs to differ between VMs only
// where the host's kernel routes, which it does not here.
const guestCID = 3

// addVirtio puts the device into the next slot. It belongs to the VM from now on,
// also if there is an error.
func (vm *VM) addVirtio(name string, dev virtio.Device) (err error) {
	vm.closers = append(vm.closers, dev)
	s := virtioSlot{name: name, dev: dev}
	if len(vm.pc.virtio) == len(pcIRQs) {
		return configError("%s: more than %d virtio devices", name, len(pcIRQs))
	}
	if s.kick, err = vm.newEvent("event"); err != nil {
		return err
	}
	if s.irq, err = vm.newEvent("event"); err != nil {
		return err
	}
	vm.pc.virtio = append(vm.pc.virtio, s)
	return nil
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
