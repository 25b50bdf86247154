package main

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

// TestSolo5Name goes by the last part of argv[0], and by nothing else.
func TestSolo5Name(t *testing.T) {
	want := ended{stderr: "solo5-hvt tender, version uvm-" + version + "\nABI version 2\n"}
	for _, name := range []string{"solo5-hvt", "./solo5-hvt", "/usr/local/bin/solo5-hvt"} {
		if got := run(t, program(t, name, "--version")); got != want {
			t.Errorf("%s --version = %+v; want %+v", name, got, want)
		}
	}
	for _, name := range []string{"solo5-hvt-debug", "uvm", "solo5-hvt/uvm", "xsolo5-hvt"} {
		if got := run(t, program(t, name, "--version")); got.stderr != "" || !strings.HasPrefix(got.stdout, "uvm ") {
			t.Errorf("%s --version = %+v; want uvm's own", name, got)
		}
	}
}

// TestSolo5Words needs no KVM: what the command line, the kernel file and the
// devices are refused for. Solo5's tender ends with 1 for everything.
func TestSolo5Words(t *testing.T) {
	dir := t.TempDir()
	ok, net, disk, both := hello(t), withDevices(t, oneNet), withDevices(t, oneDisk), withDevices(t, netDisk)
	good, odd, empty := image(t, 1<<20), image(t, 1000), image(t, 0)
	unknown := withDevices(t, []loader.Device{{Name: "gpu", Type: 7}})
	noABI, target := broken(t, noteABI+noteType, 0), broken(t, noteABIDesc, 2)
	abi3, noMFT, badMFT := broken(t, noteABIDesc+4, 3), broken(t, noteMFT+noteType, 0), broken(t, noteMFTDesc, 9)
	const all = "All declared devices must be attached. See --help for syntax."
	unattached := func(name, typ string) string {
		return fmt.Sprintf("Device '%s' of type %s declared but not attached.", name, typ)
	}
	invalid := func(word string) string { return "Invalid option: `" + word + "'" }

	for _, tt := range []struct {
		name  string
		args  []string
		usage bool     // the usage text follows
		want  []string // lines after the program's name
	}{
		{"help", []string{"--bogus", "--help", "--version"}, true, nil},
		{"nothing", nil, true, []string{"Missing KERNEL operand"}},
		{"no kernel", []string{"--mem=4", "--"}, true, []string{"Missing KERNEL operand"}},
		{"empty kernel", []string{""}, false, []string{": Could not open: No such file or directory"}},
		{"missing kernel", []string{dir + "/no"}, false, []string{dir + "/no: Could not open: No such file or directory"}},
		{"kernel before options", []string{"--bogus", dir + "/no"}, false, []string{dir + "/no: Could not open: No such file or directory"}},
		{"kernel is a value", []string{"--mem", "32"}, false, []string{"32: Could not open: No such file or directory"}},
		{"no ABI note", []string{noABI}, false, []string{noABI + ": No Solo5 ABI information found in executable"}},
		{"no ABI note before options", []string{"--bogus", noABI}, false, []string{noABI + ": No Solo5 ABI information found in executable"}},
		{"other target", []string{target}, false, []string{target + ": Executable is not for the solo5-hvt target"}},
		{"other ABI version", []string{abi3}, false, []string{abi3 + ": Executable requests unsupported ABI version 3"}},
		{"no manifest", []string{noMFT}, false, []string{noMFT + ": No Solo5 manifest found in executable"}},
		{"bad manifest", []string{badMFT}, false, []string{badMFT + ": Solo5 manifest is invalid"}},

		{"unknown option", []string{"--bogus", ok}, true, []string{invalid("--bogus")}},
		{"first wrong option", []string{"--me=4", "--mem=0", ok}, true, []string{invalid("--me=4")}},
		{"debug option", []string{"--gdb", ok}, true, []string{invalid("--gdb")}},
		{"memory of 0", []string{"--mem=0", ok}, false, []string{"Malformed argument to --mem"}},
		{"memory of garbage", []string{"--mem=much", "--bogus", ok}, false, []string{"Malformed argument to --mem"}},
		{"much memory", []string{"--mem=4098", ok}, false, []string{"guest memory size 4297064448 bytes exceeds the max size 4294967296 bytes"}},
		{"much odd memory", []string{"--mem=4099", ok}, false, []string{"adjusting memory to 4297064448 bytes",
			"guest memory size 4297064448 bytes exceeds the max size 4294967296 bytes"}},
		{"negative memory", []string{"--mem=-1", ok}, false, []string{"adjusting memory to 18446744073707454464 bytes",
			"guest memory size 18446744073707454464 bytes exceeds the max size 4294967296 bytes"}},

		{"undeclared net", []string{"--net:x=lo", net}, true, []string{"Resource not declared in manifest: 'x'", invalid("--net:x=lo")}},
		{"undeclared disk", []string{"--block:service=" + good, net}, true, []string{"Resource not declared in manifest: 'service'", invalid("--block:service=" + good)}},
		{"undeclared address", []string{"--net-mac:x=02:00:00:00:00:01", net}, true, []string{"Resource not declared in manifest: 'x'", invalid("--net-mac:x=02:00:00:00:00:01")}},
		{"undeclared size", []string{"--block-sector-size:x=512", disk}, true, []string{"Resource not declared in manifest: 'x'", invalid("--block-sector-size:x=512")}},
		{"bad name", []string{"--net:a_b=lo", net}, true, []string{invalid("--net:a_b=lo")}},
		{"bad address", []string{"--net-mac:service=02:00", net}, true, []string{invalid("--net-mac:service=02:00")}},
		{"bad size", []string{"--block-sector-size:storage=500", disk}, true,
			[]string{"Block size must be a multiple of 2 greater than or equal 512", invalid("--block-sector-size:storage=500")}},
		{"missing interface", []string{"--net:service=uvmnone0", net}, true,
			[]string{"Could not attach interface: uvmnone0: No such file or directory", invalid("--net:service=uvmnone0")}},
		{"long interface name", []string{"--net:service=a23456789012345", "--net:service=a234567890123456", net}, true,
			[]string{"Could not attach interface: a234567890123456: File name too long", invalid("--net:service=a234567890123456")}},
		{"closed descriptor", []string{"--net:service=@77", net}, true,
			[]string{"Could not attach interface: @77: Bad file descriptor", invalid("--net:service=@77")}},
		{"missing image", []string{"--block:storage=" + dir + "/no", disk}, false, []string{"Could not open block device: " + dir + "/no: No such file or directory"}},
		{"directory as image", []string{"--block:storage=" + dir, disk}, false, []string{"Could not open block device: " + dir + ": Is a directory"}},

		{"net left out", []string{net}, false, []string{unattached("service", "NET_BASIC"), all}},
		{"disk left out", []string{"--mem=4", disk}, false, []string{unattached("storage", "BLOCK_BASIC"), all}},
		{"both left out", []string{both}, false, []string{unattached("service", "NET_BASIC"), unattached("storage", "BLOCK_BASIC"), all}},
		{"only an address", []string{"--net-mac:service=02:00:00:00:00:01", net}, false, []string{unattached("service", "NET_BASIC"), all}},
		{"only a size", []string{"--block-sector-size:storage=512", disk}, false, []string{unattached("storage", "BLOCK_BASIC"), all}},
		{"unknown type", []string{unknown}, false, []string{unattached("gpu", "<undefined type>"), all}},
		{"odd image", []string{"--block:storage=" + odd, disk}, false, []string{"storage: Backing storage size must be block aligned (512 bytes)"}},
		{"odd for the size", []string{"--block:storage=" + image(t, 512), "--block-sector-size:storage=1024", disk}, false,
			[]string{"storage: Backing storage size must be block aligned (1024 bytes)"}},
		{"empty image", []string{"--block:storage=" + empty, disk}, false, []string{"storage: Backing storage must be at least 1 block (512 bytes) in size"}},
		{"long arguments", []string{ok, strings.Repeat("x", 8000), strings.Repeat("x", 191)}, false, []string{"Guest command line too long (max=8191 characters)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := ended{status: 1}
			for _, line := range tt.want {
				want.stderr += "solo5-hvt: " + line + "\n"
			}
			if tt.usage {
				want.stderr += solo5Usage
			}
			if got := solo5(t, tt.args...); got != want {
				t.Errorf("solo5-hvt %q = %+v; want %+v", tt.args, got, want)
			}
		})
	}
}

// TestSolo5UsageText pins what scripts and people compare with: the text of
// solo5-hvt 0.12.1, with its space at the end of the line of modules, and the later line
// of --no-net-ring.
func TestSolo5UsageText(t *testing.T) {
	for _, line := range []string{
		"usage: solo5-hvt [ CORE OPTIONS ] [ MODULE OPTIONS ] [ -- ] KERNEL [ ARGS ]\n",
		"  [ --mem=512 ] (guest memory in MB)\n", "  [ --no-net-ring ] (disable the net ring buffer)\n", "    --help (display this help)\n", "    --version (display version information)\n",
		"Compiled-in modules: core block net \n",
		"    --block:NAME=PATH (attach block device/file at PATH as block storage NAME)\n",
		"    --net:NAME=IFACE | @NN (attach tap at IFACE or at fd @NN as network NAME)\n",
	} {
		if !strings.Contains(solo5Usage, line) {
			t.Errorf("usage text = %q; want the line %q", solo5Usage, line)
		}
	}
}

// TestSolo5Guest are guests that run, and what becomes of those that break.
func TestSolo5Guest(t *testing.T) {
	testutil.RequireKVM(t)
	const past = 0x40000000
	const code = `0x1000[0-9a-f]{2}$`
	for _, tt := range []struct {
		name  string
		guest *guest
		want  string // the line after the program's name, a regular expression
	}{
		{"port", new(guest).emit(hvtelf.Out(0x80, 1)...), `^Invalid guest port access: port=0x80$`},
		{"boot-time port", new(guest).mark('A'), `^Invalid guest port access: port=0x3f0$`},
		// e5 imm8  in eax, 0x80
		{"input", new(guest).emit(0xe5, 0x80), `^Invalid guest port access: port=0x80$`},
		// 66 ba imm16 ee  mov dx, 0x502; out dx, al
		{"size", new(guest).emit(0x66, 0xba, 0x02, 0x05, 0xee), `^Invalid guest port access: port=0x502$`},
		{"after the last call", new(guest).call(9, 0), `^Invalid guest port access: port=0x509$`},
		{"call 0", new(guest).call(0, 0), `^Invalid guest hypercall: num=0$`},
		{"call without device", new(guest).call(hypercall.BlockRead, hvtelf.DataAddr), `^Invalid guest hypercall: num=5$`},
		{"buffer", new(guest).puts(past, 5), `^Invalid guest access: gpa=0x40000000, sz=5$`},
		{"structure", new(guest).call(hypercall.Walltime, past), `^Invalid guest access: gpa=0x40000000, sz=8$`},
		// c6 04 25 imm32 00  mov byte [CodeAddr], 0
		{"write to the code", new(guest).emit(0xc6, 0x04, 0x25, 0, 0, 0x10, 0, 0), `^KVM: host/guest translation fault: rip=` + code},
		{"hlt", new(guest).hlt(), `^KVM: unhandled exit: exit_reason=0x5, rip=` + code},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := solo5(t, "--mem=2", tt.guest.print("survived").halt(0).file(t))
			line, ok := strings.CutPrefix(got.stderr, "solo5-hvt: ")
			if !ok || got.status != 1 || got.stdout != "" || !regexp.MustCompile(tt.want).MatchString(strings.TrimSuffix(line, "\n")) {
				t.Errorf("run = %+v; want status 1 and one line %q after the name", got, tt.want)
			}
		})
	}
}

// TestSolo5Memory reads the size back from struct hvt_boot_info.
func TestSolo5Memory(t *testing.T) {
	testutil.RequireKVM(t)
	kernel := new(guest).puts(0x10000, 8).halt(0).file(t)
	const mib = 1 << 20
	for _, tt := range []struct {
		args     []string
		size     uint64
		adjusted bool
	}{
		{nil, 512 * mib, false},
		{[]string{"--mem=2"}, 2 * mib, false},
		{[]string{"--mem=1"}, 2 * mib, true},
		{[]string{"--mem=3"}, 2 * mib, true},
		{[]string{"--mem=7"}, 6 * mib, true},
		{[]string{"--mem=8abc"}, 8 * mib, false},
		{[]string{"--mem=2", "--mem=+6"}, 6 * mib, false},
		{[]string{"--mem=17592186044448"}, 32 * mib, false},
		{[]string{"--mem=4096"}, 4096 * mib, false},
	} {
		want := ended{stdout: string(words(tt.size))}
		if tt.adjusted {
			want.stderr = fmt.Sprintf("solo5-hvt: adjusting memory to %d bytes\n", tt.size)
		}
		if got := solo5(t, append(tt.args, kernel)...); got != want {
			t.Errorf("solo5-hvt %q = %+v; want %+v", tt.args, got, want)
		}
	}
}

func TestSolo5Signals(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	kernel := new(guest).print("on\n").spin().file(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		r := follow(t, program(t, solo5Name, "--mem=2", "--", kernel, "--ipv4=10.0.0.2/24"))
		r.expect("on\n")
		r.kill(sig)
		want := ended{status: 1, stderr: fmt.Sprintf("solo5-hvt: Exiting on signal %d\n", int(sig))}
		if got := r.wait(); got != want {
			t.Errorf("%v: run = %+v; want %+v", sig, got, want)
		}
	}
}

// TestSolo5Disk gives the block device with its size, in any order, and lets
// the last of two options for a name win.
func TestSolo5Disk(t *testing.T) {
	testutil.RequireKVM(t)
	disk := image(t, 1<<20)
	kernel := (&guest{devices: oneDisk}).puts(gpaEntry(1)+offMAC, 10).halt(0).file(t) // capacity, block size
	want := string(words(1<<20)) + "\x00\x10"
	wantQuiet(t, solo5(t, "--block:storage="+disk, "--block-sector-size:storage=4096", kernel), 0, want)
	wantQuiet(t, solo5(t, "--block-sector-size:storage=4096", "--block:storage=/missing", "--block:storage="+disk, kernel), 0, want)
}
