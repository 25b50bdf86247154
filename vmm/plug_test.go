package vmm

import (
	"errors"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// plugged is a device of an embedder's own, which counts how often it is made and closed.
type plugged struct {
	virtio.RNG
	made, closed int
	memory       []byte
}

// Close still finds the guest's memory, on which a device may have the host work.
func (p *plugged) Close() error {
	p.closed++
	if len(p.memory) > 0 {
		p.memory[0]++
	}
	return nil
}

func (p *plugged) device() VirtioDevice {
	return VirtioDevice{"plugged", func() (virtio.Device, error) { p.made++; return p, nil }}
}

// TestPlug: a plugged device is made once, after all that is wrong with the
// configuration, the kernel and the disks has been found, and is the VM's from then on.
func TestPlug(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.CheckFDs(t)
	refuse := errors.New("not today")
	for _, c := range []struct {
		name         string
		change       func(*Config)
		made, closed int
		want         string
	}{
		{"sound", func(*Config) {}, 1, 1, ""},
		{"memory", func(c *Config) { c.Memory = 4097 }, 0, 0, "multiple of 4 KiB"},
		{"kernel", func(c *Config) { c.Kernel, c.KernelFile = "/none", nil }, 0, 0, "/none"},
		{"disk", func(c *Config) { c.Disks = []Disk{{Path: "/none"}} }, 0, 0, "/none"},
		{"another device", func(c *Config) {
			c.Virtio = append(c.Virtio, VirtioDevice{"picky", func() (virtio.Device, error) { return nil, refuse }})
		}, 1, 1, "picky: not today"},
		{"net", func(c *Config) { c.Nets = []Net{{TAP: "uvm-none"}} }, 1, 1, "no such interface"},
		{"KVM", func(c *Config) { c.KVM = "/dev/null" }, 1, 1, "KVM_GET_API_VERSION"},
	} {
		p, g := new(plugged), new(pcGuest)
		g.poweroff()
		cfg := g.pcConfig()
		cfg.Virtio = []VirtioDevice{p.device()}
		c.change(&cfg)
		vm, err := New(cfg)
		if err == nil {
			if p.made != 1 || p.closed != 0 || vm.pc.virtio[0].dev != virtio.Device(p) {
				t.Errorf("%s: made %d times, closed %d times; want 1, 0 and the first device", c.name, p.made, p.closed)
			}
			p.memory = vm.mem.Host()
			err = vm.Close()
		}
		if p.made != c.made || p.closed != c.closed {
			t.Errorf("%s: made %d times, closed %d times; want %d and %d", c.name, p.made, p.closed, c.made, c.closed)
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: New = %v; want an error with %q", c.name, err, c.want)
		}
	}
	hvt := new(guest).config()
	p := new(plugged)
	hvt.Virtio = []VirtioDevice{p.device()}
	var ce *ConfigError
	if _, err := New(hvt); !errors.As(err, &ce) || p.made != 0 {
		t.Errorf("New of an hvt guest with a virtio device = %v, made %d times; want a ConfigError and none", err, p.made)
	}
}
