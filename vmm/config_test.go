package vmm

import (
	"cmp"
	"errors"
	"testing"
)

func TestConfigCheck(t *testing.T) {
	fd := 3
	for _, tt := range []struct {
		name string
		cfg  Config
		want string // "" where it is good
	}{
		{"zero", Config{}, "no kernel given"},
		{"least", Config{Kernel: "k"}, ""},
		{"one CPU", Config{Kernel: "k", CPUs: 1}, ""},
		{"two CPUs", Config{Kernel: "k", CPUs: 2}, "2 CPUs: an hvt guest has exactly 1"},
		{"negative CPUs", Config{Kernel: "k", CPUs: -1}, "-1 CPUs: want 1 to 16"},
		{"2 MiB", Config{Kernel: "k", Memory: 2 << 20}, ""},
		{"4 GiB", Config{Kernel: "k", Memory: 4 << 30}, ""},
		{"1 byte", Config{Kernel: "k", Memory: 1}, "guest memory of 1 bytes: need a multiple of 2 MiB, at least 2 MiB (the next is 2 MiB)"},
		{"3 MiB", Config{Kernel: "k", Memory: 3 << 20}, "guest memory of 3 MiB: need a multiple of 2 MiB, at least 2 MiB (the next is 4 MiB)"},
		{"64 GiB", Config{Kernel: "k", Memory: 64 << 30}, ""},
		{"more than 64 GiB", Config{Kernel: "k", Memory: 64<<30 + 2<<20}, "guest memory of 65538 MiB: a guest has at most 65536 MiB"},
		{"tap", Config{Kernel: "k", Nets: []Net{{TAP: "tap0", MAC: [6]byte{2}, MTU: 68}}}, ""},
		{"fd", Config{Kernel: "k", Nets: []Net{{FD: &fd, MTU: 65535}}}, ""},
		{"neither", Config{Kernel: "k", Nets: []Net{{}}}, "net number 1: need either a TAP interface or a file descriptor"},
		{"both", Config{Kernel: "k", Nets: []Net{{Name: "service", TAP: "tap0", FD: &fd}}}, `net "service": need either a TAP interface or a file descriptor`},
		{"small MTU", Config{Kernel: "k", Nets: []Net{{TAP: "a"}, {TAP: "b", MTU: 67}}}, "net number 2: MTU of 67 bytes is not between 68 and 65535"},
		{"large MTU", Config{Kernel: "k", Nets: []Net{{TAP: "a", MTU: 65536}}}, "net number 1: MTU of 65536 bytes is not between 68 and 65535"},
		{"negative MTU", Config{Kernel: "k", Nets: []Net{{TAP: "a", MTU: -1}}}, "net number 1: MTU of -1 bytes is not between 68 and 65535"},
		{"multicast MAC, which Solo5's tender takes", Config{Kernel: "k", Nets: []Net{{TAP: "a", MAC: [6]byte{1, 0, 0x5e, 0, 0, 1}}}}, ""},
		{"no path", Config{Kernel: "k", Disks: []Disk{{Name: "data"}}}, `disk "data": no path given`},
		{"512", Config{Kernel: "k", Disks: []Disk{{Path: "p", BlockSize: 512}}}, ""},
		{"32768", Config{Kernel: "k", Disks: []Disk{{Path: "p", BlockSize: 32768}}}, ""},
		{"65536", Config{Kernel: "k", Disks: []Disk{{Path: "p", BlockSize: 65536}}}, "disk number 1: block size of 65536 bytes is not a power of two from 512 to 32768"},
		{"256", Config{Kernel: "k", Disks: []Disk{{Path: "p", BlockSize: 256}}}, "disk number 1: block size of 256 bytes is not a power of two from 512 to 32768"},
		{"1000", Config{Kernel: "k", Disks: []Disk{{Path: "p", BlockSize: 1000}}}, "disk number 1: block size of 1000 bytes is not a power of two from 512 to 32768"},
		{"negative block", Config{Kernel: "k", Disks: []Disk{{Path: "p", BlockSize: -512}}}, "disk number 1: block size of -512 bytes is not a power of two from 512 to 32768"},
		{"cache modes", Config{Kernel: "k", Disks: []Disk{{Path: "p", Cache: "writeback"}, {Path: "p", Cache: "none"}, {Path: "p", Cache: "unsafe"}}}, ""},
		{"cache", Config{Kernel: "k", Disks: []Disk{{Path: "p", Name: "a", Cache: "wt"}}}, `disk "a": no cache mode "wt" (there are writeback, none and unsafe)`},
		{"serial", Config{Kernel: "k", Disks: []Disk{{Path: "p", Serial: "x"}}}, "k is an hvt unikernel: its disks have no serial numbers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := cmp.Or(tt.cfg.check(), tt.cfg.checkHVT())
			if tt.want == "" {
				if err != nil {
					t.Errorf("check() = %v; want nil", err)
				}
				return
			}
			var e *ConfigError
			if !errors.As(err, &e) || err.Error() != tt.want {
				t.Errorf("check() = %v (%T); want a *ConfigError: %s", err, err, tt.want)
			}
		})
	}
}

// TestConfigDefaults checks what zero means.
func TestConfigDefaults(t *testing.T) {
	c := Config{Kernel: "k", Disks: []Disk{{Path: "p"}}}
	if err := cmp.Or(c.check(), c.checkHVT()); err != nil || c.Memory != 64<<20 || c.Disks[0].BlockSize != 512 {
		t.Errorf("check() = %v, memory %d, block size %d; want nil, 64 MiB, 512", err, c.Memory, c.Disks[0].BlockSize)
	}
}

// TestConfigIsNotChanged builds a VM from a Config that another may share.
func TestConfigIsNotChanged(t *testing.T) {
	g := guest{devices: oneDisk}
	g.halt(0)
	cfg := g.config()
	cfg.Memory, cfg.Disks = 0, []Disk{{Path: image(t, 512)}}
	newVM(t, cfg)
	if cfg.Memory != 0 || cfg.Disks[0].BlockSize != 0 {
		t.Errorf("Config after New = memory %d, block size %d; want both still 0", cfg.Memory, cfg.Disks[0].BlockSize)
	}
}
