package vmm

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/vsock"
)

// attacker is a PC's kernel that does to its devices whatever comes to its mind.
// It is straight-line code, so that it comes to an end.
type attacker struct {
	pcGuest
	*rand.Rand
	devices int
	index   [5][attackQueues]uint32 // of the available rings
}

// Where its queues and buffers are: clear of the code, mostly.
const (
	attackRings = 0x140000
	attackEnd   = 0x1c0000

	attackQueues = 3
	attackVsock  = 4 // the device after two disks, console and rng
)

var rngDevice = VirtioDevice{"rng", func() (virtio.Device, error) { return virtio.NewRNG(), nil }}

func vsockDevice(path string) VirtioDevice {
	return VirtioDevice{"vsock", func() (virtio.Device, error) { return vsock.New(3, path) }}
}

// poke stores a word.
//
//	c7 05 addr imm32  mov dword [addr], value
func (a *attacker) poke(addr, value uint32) {
	a.emit(append(binary.LittleEndian.AppendUint32([]byte{0xc7, 0x05}, addr), imm32(value)...)...)
}

// number is a value that a driver might mean, or one that it should not.
func (a *attacker) number() uint32 {
	switch a.IntN(6) {
	case 0:
		return uint32(a.IntN(16))
	case 1:
		return 1 << a.IntN(32)
	case 2:
		return a.Uint32()
	case 3:
		return -uint32(a.IntN(4096))
	}
	return attackRings + uint32(a.IntN(attackEnd-attackRings))&^15
}

// reg is the address of a device's register.
func (a *attacker) reg(dev int, off uint32) uint32 { return uint32(virtioAddr(dev)) + off }

// ring is where a queue's descriptor table is; its other parts follow.
func (a *attacker) ring(dev int, q uint32) uint32 {
	return attackRings + uint32(dev)*0x10000 + q*0x4000
}

// chains fills a table with five requests: what is read, what is written, and a
// status. The first part is a disk request or, for another device, may be a packet.
func (a *attacker) chains(dev int, base uint32) {
	desc := func(i, size, flags uint32) uint32 {
		addr := base + 0x3000 + i*0x60
		if size > 64 {
			addr = attackEnd + uint32(a.IntN(16))*0x1000
		}
		if a.IntN(30) == 0 {
			addr, flags = a.number(), uint32(a.IntN(8))
		}
		next := i + 1
		if a.IntN(50) == 0 {
			next = uint32(a.IntN(18))
		}
		a.poke(base+i*16, addr)
		a.poke(base+i*16+4, 0)
		a.poke(base+i*16+8, size)
		a.poke(base+i*16+12, flags|next<<16)
		return addr
	}
	const next, write = 1, 2
	for i := uint32(0); i < 15; i += 3 {
		head := desc(i, 16+uint32(a.IntN(2))*28, next)
		a.poke(head, [...]uint32{0, 1, 4, 8, 3, 13}[a.IntN(6)])
		a.poke(head+4, 0)
		a.poke(head+8, uint32(a.IntN(2100)))
		a.poke(head+12, 0)
		if dev == attackVsock {
			for n, v := range []uint32{3, 0, 2, 0, a.number() & 0xff, a.number() & 0xff, uint32(a.IntN(80)), 1 | uint32(a.IntN(9))<<16, uint32(a.IntN(4)), 1 << 16, 0} {
				a.poke(head+uint32(n)*4, v)
			}
		}
		desc(i+1, 512<<a.IntN(4), next|uint32(a.IntN(2))*write)
		desc(i+2, 1+uint32(a.IntN(50)), write)
	}
	for i := range uint32(8) {
		a.poke(base+0x1000+4+i*4, uint32(a.IntN(5)*3)|uint32(a.IntN(5)*3)<<16)
	}
}

// drive sets a device up as a driver would, but for one thing or another.
func (a *attacker) drive() {
	dev := a.IntN(a.devices)
	set := func(off, v uint32) {
		if a.IntN(40) == 0 {
			v = a.number()
		}
		if a.IntN(60) != 0 {
			a.poke(a.reg(dev, off), v)
		}
	}
	set(0x70, 0)
	set(0x70, 1)
	set(0x70, 3)
	set(0x24, 1)
	set(0x20, 1) // VERSION_1
	set(0x24, 0)
	set(0x20, uint32(a.IntN(4))<<28)
	set(0x70, 11)
	a.index[dev] = [attackQueues]uint32{}
	for q := range uint32(attackQueues) {
		base := a.ring(dev, q)
		set(0x30, q)
		set(0x38, 16)
		set(0x80, base)
		set(0x90, base+0x1000)
		set(0xa0, base+0x2000)
		set(0x44, 1)
		a.chains(dev, base)
	}
	set(0x70, 15)
}

// act is one thing.
func (a *attacker) act() {
	dev := a.IntN(a.devices)
	switch a.IntN(8) {
	case 0:
		a.poke(a.reg(dev, uint32(a.IntN(0x200))), a.number())
	case 1: // mov eax, [addr]
		a.emit(append([]byte{0xa1}, imm32(a.reg(dev, uint32(a.IntN(0x1000))))...)...)
	case 2, 3:
		a.poke(a.reg(dev, virtio.QueueNotify), uint32(a.IntN(4)))
	case 4: // an available ring moves on, and the doorbell rings
		q := uint32(a.IntN(attackQueues))
		a.index[dev][q] += uint32(a.IntN(3))
		if a.IntN(50) == 0 {
			a.index[dev][q] += 1000
		}
		a.poke(a.ring(dev, q)+0x1000, a.index[dev][q]<<16)
		a.poke(a.reg(dev, virtio.QueueNotify), q)
	case 5:
		if a.IntN(10) == 0 {
			a.poke(a.ring(dev, 0)+uint32(a.IntN(0xc000)), a.number())
		}
	case 6:
		a.port()
	case 7:
		if a.IntN(40) == 0 {
			a.drive()
		}
	}
}

// port reads or writes a port, but for those that end the VM.
//
//	66 ba imm16  mov dx, port
//	b8 imm32     mov eax, value
func (a *attacker) port() {
	ports := [...]uint16{0x20, 0x40, 0x43, 0x60, 0x61, 0x70, 0x71, 0x3f0, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3ff, 0x600, 0x602, 0xcf8, uint16(a.IntN(0x50))}
	port := ports[a.IntN(len(ports))]
	a.emit(append([]byte{0x66, 0xba, byte(port), byte(port >> 8), 0xb8}, imm32(a.number())...)...)
	ops := [...][]byte{{0xee}, {0x66, 0xef}, {0xef}, {0xec}, {0x66, 0xed}, {0xed}} // out and in of 1, 2, 4 bytes
	op := ops[a.IntN(len(ops))]
	if port >= 0x600 {
		op = ops[3]
	}
	a.emit(op...)
}

// TestAttack runs attackers on a PC with every kind of device that needs no
// privilege. Whatever they do, they end, and so does the monitor's work for them.
// UVM_ATTACK_SEED repeats one.
func TestAttack(t *testing.T) {
	testutil.RequireKVM(t)
	seeds := make([]uint64, 12)
	for i := range seeds {
		seeds[i] = rand.Uint64()
	}
	if s := os.Getenv("UVM_ATTACK_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	ends := map[string]int{}
	for _, seed := range seeds {
		ends[attack(t, seed)]++
		if t.Failed() {
			t.Fatalf("repeat it by UVM_ATTACK_SEED=%d", seed)
		}
	}
	t.Logf("attackers with seeds %d ended: %v", seeds, ends)
}

func attack(t *testing.T, seed uint64) (end string) {
	testutil.CheckFDs(t)
	const diskSize = 1 << 20
	dir := t.TempDir()
	disk := dir + "/disk"
	if err := os.WriteFile(disk, make([]byte, diskSize), 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly := dir + "/ro"
	if err := os.WriteFile(readOnly, make([]byte, diskSize), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &attacker{Rand: rand.New(rand.NewPCG(seed, 0)), devices: 5}
	for range 2 * a.devices {
		a.drive()
	}
	for len(a.code) < 56<<10 { // of 64 KiB, for the last act may be long
		a.act()
	}
	a.poweroff()
	cfg := a.pcConfig()
	cfg.Disks = []Disk{{Path: disk}, {Path: readOnly, ReadOnly: true}}
	cfg.Virtio, cfg.Cmdline, cfg.Console = []VirtioDevice{rngDevice, vsockDevice(dir + "/sock")}, "console=hvc0", io.Discard
	vm, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(vm.pc.virtio); n != a.devices {
		t.Fatalf("%d virtio devices; want %d", n, a.devices)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	res, err := vm.Run(ctx)
	var guest *GuestError
	switch {
	case err == nil && (res.Stop == devices.StopPowerOff || res.Stop == devices.StopReset || res.Stop == devices.StopExit):
		end = string(res.Stop)
	case errors.As(err, &guest):
		end = string(guest.Kind)
	default:
		t.Errorf("Run = %+v, %v; want an end of the guest's own", res, err)
	}
	if err := vm.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if st, err := os.Stat(disk); err != nil || st.Size() != diskSize {
		t.Errorf("the disk is %v, %v; want %d bytes", st, err, diskSize)
	}
	if b, err := os.ReadFile(readOnly); err != nil || len(b) != diskSize || len(trimZeros(b)) > 0 {
		t.Errorf("the read-only disk was changed")
	}
	return end
}

func trimZeros(b []byte) []byte {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}
