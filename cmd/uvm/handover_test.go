package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/hostnet/wire"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/loader"
)

// TestHandOver tells each kind of guest its addresses.
func TestHandOver(t *testing.T) {
	two := append(slices.Clone(oneNet), loader.Device{Name: "admin", Type: loader.DeviceNet})
	kernels := map[string]string{
		"plain": (&guest{devices: oneNet}).halt(0).file(t), "plain two": (&guest{devices: two}).halt(0).file(t),
		"own": (&guest{devices: oneNet}).halt(0).native(t, loader.NativeSealed), "own two": (&guest{devices: two}).halt(0).native(t, loader.NativeSealed|nativeHTTP),
		"http":  (&guest{devices: oneNet}).halt(0).native(t, loader.NativeSealed|nativeHTTP),
		"linux": writeFile(t, "vmlinux", hvtelf.PC{Code: []byte{0xf4}}.ELF()),
	}
	const auto = "ip=10.192.7.2/30,gw=10.192.7.1" // what uvm-net would choose
	for _, tt := range []struct {
		kernel string
		nets   []string
		args   string // after the words of the command line
		line   string // for Linux
		note   string
		bad    string
	}{
		{kernel: "own", nets: []string{"auto," + auto}, args: "uvm.net=service,10.192.7.2/30,10.192.7.1 a b", note: "guest: 10.192.7.2\n"},
		{kernel: "own", nets: []string{"tap0,ip=10.0.0.2/24"}, args: "uvm.net=service,10.0.0.2/24 a b"},
		{kernel: "own", nets: []string{"fd:3,ip=10.0.0.2/24"}, args: "uvm.net=service,10.0.0.2/24 a b"},
		{kernel: "own", nets: []string{"auto,args=mirage," + auto}, args: "uvm.net=service,10.192.7.2/30,10.192.7.1 --ipv4=10.192.7.2/30 --ipv4-gateway=10.192.7.1 a b", note: "guest: 10.192.7.2\n"},
		{kernel: "own two", nets: []string{"admin=auto," + auto, "service=tap1,ip=10.0.0.2/24"}, args: "uvm.net=service,10.0.0.2/24 uvm.net=admin,10.192.7.2/30,10.192.7.1 a b", note: "guest: 10.192.7.2\n"},
		{kernel: "own two", nets: []string{"auto," + auto, "tap1"}, args: "uvm.net=service,10.192.7.2/30,10.192.7.1 a b", note: "guest: 10.192.7.2, http://10.192.7.2/\n"},
		{kernel: "http", nets: []string{"auto," + auto}, args: "uvm.net=service,10.192.7.2/30,10.192.7.1 a b", note: "guest: 10.192.7.2, http://10.192.7.2/\n"},
		{kernel: "http", nets: []string{"auto,bridge=br0"}, args: "a b"},
		{kernel: "plain", nets: []string{"auto," + auto}, args: "a b", note: "guest: 10.192.7.2 (it is not told: it has no note of uvm's own; --net auto,args=mirage has --ipv4= before its arguments)\n"},
		{kernel: "plain", nets: []string{"auto,args=mirage," + auto}, args: "--ipv4=10.192.7.2/30 --ipv4-gateway=10.192.7.1 a b", note: "guest: 10.192.7.2\n"},
		{kernel: "plain", nets: []string{"tap0,args=mirage,ip=10.0.0.2/24"}, args: "--ipv4=10.0.0.2/24 a b"},
		{kernel: "plain", nets: []string{"tap0,ip=10.0.0.2/24"}, bad: "has no note of uvm's own"},
		{kernel: "plain", nets: []string{"auto,bridge=br0,args=mirage"}, bad: "there is no address to hand over"},
		{kernel: "plain two", nets: []string{"tap0,args=mirage,ip=10.0.0.2/24", "tap1,args=mirage,ip=10.0.1.2/24"}, bad: "only one of them can have it"},
		{kernel: "linux", nets: []string{"auto," + auto}, args: "a b", line: "ip=10.192.7.2::10.192.7.1:255.255.255.252::eth0:off quiet", note: "guest: 10.192.7.2, ports 80/tcp 53/udp\n"},
		{kernel: "linux", nets: []string{"tap1", "tap0,ip=10.0.0.2/24,gw=10.0.0.1"}, args: "a b", line: "ip=10.0.0.2::10.0.0.1:255.255.255.0::eth1:off quiet"},
		{kernel: "linux", nets: []string{"tap0,ip=10.1.2.3/32", "tap1,ip=10.1.2.3/1"}, args: "a b", line: "ip=10.1.2.3:::255.255.255.255::eth0:off ip=10.1.2.3:::128.0.0.0::eth1:off quiet"},
		{kernel: "linux", nets: []string{"tap0,args=mirage,ip=10.1.2.3/32"}, bad: "not an hvt unikernel"},
	} {
		args := []string{kernels[tt.kernel], "--cmdline", "quiet"}
		for _, n := range tt.nets {
			args = append(args, "--net", n)
		}
		s := settingsOf(t, append(args, "--", "a", "b")...)
		cfg := s.vmConfig()
		img, err := loader.Open(cfg.Kernel, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		var ports []string
		if img.Linux != nil {
			ports = []string{"80/tcp", "53/udp"}
		}
		var note string
		status := -1
		said := stderrOf(t, func() { note, status = s.handOver(&cfg, img, s.Nets, s.netLabels(img), ports) })
		img.Close()
		if tt.bad != "" {
			if status != exitUsage || !strings.Contains(said, tt.bad) {
				t.Errorf("%s, %q: status %d, stderr %q; want %d and %q", tt.kernel, tt.nets, status, said, exitUsage, tt.bad)
			}
			continue
		}
		if tt.line == "" {
			tt.line = "quiet"
		}
		if got := strings.Join(cfg.Args, " "); status >= 0 || got != tt.args || cfg.Cmdline != tt.line || note != tt.note || said != "" {
			t.Errorf("%s, %q: status %d, stderr %q, arguments %q, command line %q, note %q; want %q, %q, %q", tt.kernel, tt.nets, status, said, got, cfg.Cmdline, note, tt.args, tt.line, tt.note)
		}
	}
}

// TestNetLabels matches --net with the guest's devices as vmm does.
func TestNetLabels(t *testing.T) {
	two := []loader.Device{{Name: "storage", Type: loader.DeviceBlock}, {Name: "a", Type: loader.DeviceNet}, {Name: "b", Type: loader.DeviceNet}}
	hvt, pc := (&guest{devices: two}).halt(0).file(t), writeFile(t, "vmlinux", hvtelf.PC{Code: []byte{0xf4}}.ELF())
	for _, tt := range []struct {
		kernel, nets, want string // "" = none fits
	}{
		{hvt, "tap0", "a"},
		{hvt, "tap0 tap1", "a b"},
		{hvt, "b=tap0 a=tap1", "b a"},
		{hvt, "tap0 tap1 tap2", ""},
		{hvt, "c=tap0", ""},
		{hvt, "storage=tap0", ""},
		{pc, "tap0 lan=tap1 tap2", "eth0 lan eth2"},
	} {
		s := new(settings)
		for _, n := range strings.Fields(tt.nets) {
			if err := s.Nets.Set(n); err != nil {
				t.Fatal(err)
			}
		}
		img, err := loader.Open(tt.kernel, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.netLabels(img), " "); got != tt.want {
			t.Errorf("labels of %q = %q; want %q", tt.nets, got, tt.want)
		}
		img.Close()
	}
}

// TestNeedsProgram starts no program for interfaces that there are.
func TestNeedsProgram(t *testing.T) {
	netNS(t)
	free(t, makeTap(t, "tap0"))
	for spec, want := range map[string]bool{
		"tap0": false, "tap0,mtu=1400,mac=02:00:00:00:00:01,ip=10.0.0.2/24": false, "lo": false, "fd:3": false, "a234567890123456": false,
		"tap1": true, "auto": true, "tap0,netns=x": true, "tap0,bridge=x": true, "tap%d": true,
	} {
		var l netList
		if err := l.Set(spec); err != nil {
			t.Fatal(err)
		}
		if got := l[0].needsProgram(); got != want {
			t.Errorf("--net %s needs uvm-net: %t; want %t", spec, got, want)
		}
	}
	if wire.Auto != "auto" {
		t.Errorf("wire.Auto = %q; want what the help text says", wire.Auto)
	}
}

// stderrOf is what f says.
func stderrOf(t *testing.T, f func()) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	old := os.Stderr
	os.Stderr = file
	f()
	os.Stderr = old
	said, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}
