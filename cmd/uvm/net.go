package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hostnet/wire"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/vmm"
)

func netFlags() *pflag.FlagSet {
	f := newFlags("net")
	f.String("netns", "", "look in this network namespace, a `NAME` of ip netns or a path")
	return f
}

// netMain becomes the program that knows about network interfaces.
func netMain(args []string) int {
	f := netFlags()
	if status := parse(f, "net", args); status >= 0 {
		return status
	}
	if f.NArg() != 1 || f.Arg(0) != "clean" {
		return fail(exitUsage, "want one command: uvm net clean")
	}
	return becomeProgram(netProgram, args...)
}

// mirage as args= has a guest's address written as MirageOS wants it.
const mirage = "mirage"

// nativeHTTP is the hint in uvm's note that the guest serves HTTP on port 80 (docs/abi.md).
const nativeHTTP loader.NativeFlags = 0x10000

// needsProgram says that the interface cannot simply be opened by vmm: it has to be made, or lies elsewhere.
func (n *netSpec) needsProgram() bool {
	return n.FD == nil && (n.TAP == wire.Auto || n.Netns != "" || n.Bridge != "" || !interfaceExists(n.TAP))
}

// interfaceExists says whether there is an interface, or anything else that vmm will find out about the name.
func interfaceExists(name string) bool {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return true
	}
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(sock)
	return !errors.Is(unix.IoctlIfreq(sock, unix.SIOCGIFINDEX, ifr), unix.ENODEV)
}

// network makes the interfaces that have to be made, and hands the guest its addresses over. ports are those
// that a container image exposes. note is what to say when the guest starts. A non-negative status says that it cannot, in words
// that are printed already. What is wrong with the configuration as a whole is left to vmm.New.
func (s *settings) network(cfg *vmm.Config, ports []string) (note string, status int) {
	var wanted []int // the nets that uvm-net has to open
	due := false
	for i := range s.Nets {
		n := &s.Nets[i]
		switch {
		case n.MTU != 0 && (n.MTU < 68 || n.MTU > 65535) || n.TAP == "" && n.FD == nil:
			return "", -1
		case n.FD != nil && (n.Netns != "" || n.Bridge != ""):
			return "", fail(exitUsage, "--net fd:%d: netns= and bridge= are for interfaces that uvm opens by name", *n.FD)
		case n.Args != "" && n.Args != mirage:
			return "", fail(exitUsage, "--net: args=%s: there is only args=%s", n.Args, mirage)
		case n.GW != (wire.Addr{}) && !n.IP.Set():
			return "", fail(exitUsage, "--net: gw=%v without ip=", n.GW)
		case n.needsProgram():
			wanted = append(wanted, i)
		}
		due = due || n.IP.Set() || n.Args != ""
	}
	if len(wanted) == 0 && !due {
		return "", -1
	}
	img, err := loader.Open(cfg.Kernel, nil, cfg.Boot)
	if err != nil {
		return "", fail(startStatus(err), "%v", err)
	}
	defer img.Close()
	labels := s.netLabels(img)
	if labels == nil {
		return "", -1
	}
	replies, fds, status := s.openNets(wanted, labels, img.Linux != nil)
	if status >= 0 {
		return "", status
	}
	nets := make([]netSpec, len(s.Nets)) // with what was chosen
	copy(nets, s.Nets)
	for j, i := range wanted {
		r := &replies[j]
		nets[i].IP, nets[i].GW = r.Guest, r.Gateway
		c := &cfg.Nets[i]
		c.TAP, c.FD, c.MTU = "", &fds[j], r.MTU
	}
	return s.handOver(cfg, img, nets, labels, ports)
}

// netLabels are the names of the guest's net devices, in the order of --net; nil where the guest has not that many, or
// not these.
func (s *settings) netLabels(img *loader.Image) []string {
	devices := netDevices(img)
	labels := make([]string, len(s.Nets))
	for i := range labels {
		switch name := s.Nets[i].Name; {
		case img.Linux != nil && name == "":
			labels[i] = fmt.Sprintf("eth%d", i)
		case img.Linux != nil || name != "" && slices.Contains(devices, name):
			labels[i] = name
		case name == "" && i < len(devices):
			labels[i] = devices[i]
		default:
			return nil
		}
	}
	return labels
}

// openNets has uvm-net open the interfaces of some nets.
func (s *settings) openNets(wanted []int, labels []string, vnet bool) (replies []wire.Reply, fds []int, status int) {
	if len(wanted) == 0 {
		return nil, nil, -1
	}
	requests := make([]wire.Request, len(wanted))
	for j, i := range wanted {
		n := &s.Nets[i]
		requests[j] = wire.Request{Label: labels[i], Name: n.TAP, Netns: n.Netns, Bridge: n.Bridge, MTU: n.MTU, Guest: n.IP, Gateway: n.GW, Vnet: vnet}
	}
	list, err := json.Marshal(requests)
	if err != nil {
		return nil, nil, fail(exitHost, "--net: %v", err)
	}
	program, err := findProgram(netProgram)
	if err != nil {
		name := requests[0].Name
		if name == wire.Auto {
			return nil, nil, fail(exitHost, "--net %s: %v", name, err)
		}
		return nil, nil, fail(exitHost, "--net %s: no such interface (make it: ip tuntap add %s mode tap; ip link set %s up), and to make it %v", name, name, name, err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fail(exitHost, "--net: %v", err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	status = runProgram(program, []string{netProgram, "open", string(list)}, theirs)
	theirs.Close()
	if status != 0 {
		return nil, nil, status
	}
	if replies, fds, err = wire.Receive(pair[0], len(wanted)); err != nil {
		return nil, nil, fail(exitHost, "%s: %v", program, err)
	}
	return replies, fds, -1
}

// handOver tells the guest its addresses, each kind of guest in its way.
func (s *settings) handOver(cfg *vmm.Config, img *loader.Image, nets []netSpec, labels, ports []string) (note string, status int) {
	var words []string
	line, told := "", 0
	for i := range nets {
		n := &nets[i]
		if n.Args == mirage {
			told++
			switch {
			case img.Linux != nil:
				return "", fail(exitUsage, "--net …,args=%s: %s is not an hvt unikernel", mirage, cfg.Kernel)
			case told > 1:
				return "", fail(exitUsage, "--net …,args=%s: only one of them can have it: MirageOS's argument --ipv4 names no device", mirage)
			case !n.IP.Set():
				return "", fail(exitUsage, "--net …,args=%s: there is no address to hand over: add ip=ADDRESS/BITS", mirage)
			}
			words = append(words, "--ipv4="+n.IP.String())
			if n.GW != (wire.Addr{}) {
				words = append(words, "--ipv4-gateway="+n.GW.String())
			}
		}
		if !n.IP.Set() {
			continue
		}
		hint := ""
		switch {
		case img.Linux != nil:
			line += n.linuxWord(i) + " "
		case img.Native != nil:
			word := "uvm.net=" + labels[i] + "," + n.IP.String()
			if n.GW != (wire.Addr{}) {
				word += "," + n.GW.String()
			}
			words = append([]string{word}, words...)
		case n.Args == "" && n.TAP == wire.Auto:
			hint = fmt.Sprintf(" (it is not told: it has no note of uvm's own; --net auto,args=%s has --ipv4= before its arguments)", mirage)
		case n.Args == "":
			return "", fail(exitUsage, "--net …,ip=%v: %s has no note of uvm's own, by which it would read an address (args=%s hands it over as --ipv4=)", n.IP, cfg.Kernel, mirage)
		}
		if n.TAP != wire.Auto {
			continue
		}
		note += "guest: " + n.IP.Addr.String()
		if img.Native != nil && img.Native.Flags&nativeHTTP != 0 && labels[i] == netDevices(img)[0] {
			note += ", http://" + n.IP.Addr.String() + "/"
		}
		if len(ports) > 0 {
			note += ", ports " + strings.Join(ports, " ")
		}
		note += hint + "\n"
	}
	cfg.Args = append(words, cfg.Args...)
	cfg.Cmdline = strings.TrimSpace(line + cfg.Cmdline) // the user's own ip= wins
	return note, -1
}

// netDevices are the names of the net devices in the guest's manifest.
func netDevices(img *loader.Image) (names []string) {
	if img.Manifest == nil {
		return nil
	}
	for i := range img.Manifest.Entries {
		if e := &img.Manifest.Entries[i]; e.Type == loader.DeviceNet {
			names = append(names, e.Name)
		}
	}
	return names
}

// linuxWord makes Linux set the address of its n-th network device (Documentation/admin-guide/nfs/nfsroot.rst;
// CONFIG_IP_PNP).
func (n *netSpec) linuxWord(i int) string {
	gw := ""
	if n.GW != (wire.Addr{}) {
		gw = n.GW.String()
	}
	return fmt.Sprintf("ip=%s::%s:%s::eth%d:off", n.IP.Addr, gw, n.IP.Mask(), i)
}
