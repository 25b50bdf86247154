package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/meter"
	"github.com/uvm-monitor/uvm/vmm"
	"github.com/uvm-monitor/uvm/vsock"
)

// settings is all that `uvm run` can be told. Its JSON form is the schema of
// --config; each key is the flag of that name.
type settings struct {
	Kernel       string   `json:"kernel"`
	Image        string   `json:"image,omitempty"`
	ImageTag     string   `json:"image-tag,omitempty"`
	Env          []string `json:"env,omitempty"`
	Args         []string `json:"args,omitempty"`
	Memory       memSize  `json:"memory,omitempty"`
	CPUs         int      `json:"cpus,omitempty"`
	Boot         string   `json:"boot,omitempty"`
	Initrd       string   `json:"initrd,omitempty"`
	Cmdline      string   `json:"cmdline,omitempty"`
	RNG          bool     `json:"rng,omitempty"`
	Vsock        string   `json:"vsock,omitempty"`
	Ring         string   `json:"ring,omitempty"`
	SealExecOnly bool     `json:"seal-exec-only,omitempty"`
	Nets         netList  `json:"net,omitempty"`
	NetRing      string   `json:"net-ring,omitempty"`
	Disks        diskList `json:"disk,omitempty"`
	Console      string   `json:"console,omitempty"`
	Timeout      duration `json:"timeout,omitempty"`
	GDB          string   `json:"gdb,omitempty"`
	GDBWait      bool     `json:"gdb-wait,omitempty"`
	Core         string   `json:"core,omitempty"`
	BootReport   string   `json:"boot-report,omitempty"`
	BootSummary  bool     `json:"boot-summary,omitempty"`
	Timing       bool     `json:"timing,omitempty"`
	LogLevel     string   `json:"log-level,omitempty"`
	LogFormat    string   `json:"log-format,omitempty"`
	LogFile      string   `json:"log-file,omitempty"`
	LogSize      memSize  `json:"log-size,omitempty"`
	LogRate      memSize  `json:"log-rate,omitempty"`
	Name         string   `json:"name,omitempty"`
	Control      string   `json:"control,omitempty"`
	RunDir       string   `json:"run-dir,omitempty"`
}

// load reads the settings from a file, or from stdin for "-". Unknown keys and
// anything after the object are errors.
func (s *settings) load(path string) error {
	var data []byte
	var err error
	if path == "-" {
		data, err = io.ReadAll(os.Stdin)
	} else {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("--config %s: more than one JSON value", path)
	}
	return nil
}

// vmConfig is the part that the library understands.
func (s *settings) vmConfig() vmm.Config {
	c := vmm.Config{
		Kernel: s.Kernel, Args: s.Args, Memory: uint64(s.Memory), CPUs: s.CPUs, ExecTime: execTime,
		Ring: vmm.Ring(s.Ring), SealExecOnly: s.SealExecOnly, TSSAvailable: labTSS(),
		Boot: loader.Kind(s.Boot), Initrd: s.Initrd, Cmdline: s.Cmdline,
		Meter: meter.New(s.Timing), Timing: s.Timing,
	}
	if s.RNG {
		c.Virtio = append(c.Virtio, vmm.VirtioDevice{Name: "rng", New: func() (virtio.Device, error) { return virtio.NewRNG(), nil }})
	}
	if s.Vsock != "" {
		c.Virtio = append(c.Virtio, vmm.VirtioDevice{Name: "vsock", New: func() (virtio.Device, error) { return vsock.New(guestCID, s.Vsock) }})
	}
	for _, n := range s.Nets {
		rx, tx := n.limits()
		c.Nets = append(c.Nets, vmm.Net{Name: n.Name, TAP: n.TAP, FD: n.FD, MAC: n.MAC, MTU: n.MTU, RxLimit: rx, TxLimit: tx})
	}
	for _, d := range s.Disks {
		c.Disks = append(c.Disks, vmm.Disk{Name: d.Name, Path: d.Path, ReadOnly: d.RO, BlockSize: d.BlockSize, Cache: d.Cache, Serial: d.Serial, Limit: d.limit()})
	}
	return c
}

// guestCID is the guest's vsock address. It needs to differ between VMs only
// where the host's kernel routes, which it does not here.
const guestCID = 3

// labTSS says that uvm runs in the lab, under QEMU's emulation of SVM
// (docs/testing.md).
func labTSS() bool { return os.Getenv("UVM_LAB") == "1" }

// memSize is a number of bytes, written with its unit; a bare number is MiB.
type memSize uint64

var memUnits = []struct {
	suffix string
	shift  uint
}{{"G", 30}, {"M", 20}, {"K", 10}}

func (m memSize) String() string {
	if m == 0 {
		return ""
	}
	for _, u := range memUnits {
		if m%(1<<u.shift) == 0 {
			return strconv.FormatUint(uint64(m)>>u.shift, 10) + u.suffix
		}
	}
	return strconv.FormatUint(uint64(m), 10) + "B"
}

// Set parses 64, 64M, 64MiB, 1G.
func (m *memSize) Set(s string) error {
	n, err := parseSize(s, 20)
	if err != nil {
		return fmt.Errorf("want a positive number with K, M or G, as 64M (a bare number is MiB)")
	}
	*m = memSize(n)
	return nil
}

// Type is the placeholder in help texts.
func (m *memSize) Type() string { return "SIZE" }

// MarshalText and UnmarshalJSON make the JSON form: a string with a unit, or a
// number of MiB.
func (m memSize) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalJSON accepts a string or a bare number.
func (m *memSize) UnmarshalJSON(b []byte) error {
	if err := m.Set(strings.Trim(string(b), `"`)); err != nil {
		return fmt.Errorf("memory: %s: %w", b, err)
	}
	return nil
}

// duration is a time.Duration that JSON writes as "5s".
type duration time.Duration

func (d duration) String() string {
	if d == 0 {
		return ""
	}
	return time.Duration(d).String()
}

// Set parses 300ms, 5s, 1m30s.
func (d *duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v <= 0 {
		return fmt.Errorf("want a positive duration with its unit, as 300ms or 5s")
	}
	*d = duration(v)
	return nil
}

// Type is the placeholder in help texts.
func (d *duration) Type() string { return "DURATION" }

// MarshalText writes the JSON form.
func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads it.
func (d *duration) UnmarshalText(b []byte) error {
	if err := d.Set(string(b)); err != nil {
		return fmt.Errorf("timeout or burst: %q: %w", b, err)
	}
	return nil
}

// macAddr is a MAC address as text.
type macAddr [6]byte

func (m macAddr) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText writes aa:bb:cc:dd:ee:ff.
func (m macAddr) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads it. (Package net could, but costs every start of uvm.)
func (m *macAddr) UnmarshalText(b []byte) error {
	groups := strings.Split(string(b), ":")
	var mac macAddr
	for i, g := range groups {
		v, err := strconv.ParseUint(g, 16, 8)
		if err != nil || len(groups) != len(mac) || len(g) != 2 {
			return fmt.Errorf("%q is not a MAC address, as 02:00:00:00:00:01", b)
		}
		mac[i] = byte(v)
	}
	if mac[0]&1 != 0 {
		return fmt.Errorf("%s is a multicast MAC address (its first byte is odd)", b)
	}
	*m = mac
	return nil
}
