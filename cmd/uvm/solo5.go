package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/uvm-monitor/uvm/internal/debugger"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/vmm"
)

// Started under this name, uvm is a drop-in for Solo5's own tender: its
// syntax, its messages and its exit statuses. docs/compat.md lists where the
// two differ.
const solo5Name = "solo5-hvt"

// solo5Run is what the command line says.
type solo5Run struct {
	kernel string
	mem    uint64 // bytes, before rounding
	nets   []solo5Net
	disks  []solo5Disk
	args   []string
	noRing bool   // --no-net-ring
	core   string // --dumpcore; "" = none
}

type solo5Net struct {
	vmm.Net
	word string // the --net: option as given
}

type solo5Disk struct {
	vmm.Disk
	word string
}

// solo5Exit is an error that Solo5's tender reports and dies of. usage says
// that it shows its usage text too.
type solo5Exit struct {
	lines []string
	usage bool
}

func (e *solo5Exit) Error() string { return strings.Join(e.lines, "\n") }

func solo5Fail(format string, args ...any) *solo5Exit {
	return &solo5Exit{lines: []string{fmt.Sprintf(format, args...)}}
}

// solo5Invalid is an option that is refused; why is "" or a line before it.
func solo5Invalid(word, why string) *solo5Exit {
	e := &solo5Exit{usage: true}
	if why != "" {
		e.lines = append(e.lines, why)
	}
	e.lines = append(e.lines, fmt.Sprintf("Invalid option: `%s'", word))
	return e
}

// solo5Main runs uvm as solo5-hvt. argv includes the program's name.
func solo5Main(argv []string, stderr io.Writer) int {
	status, err := solo5Start(argv[1:], stderr)
	var exit *solo5Exit
	if !errors.As(err, &exit) {
		return status
	}
	for _, line := range exit.lines {
		fmt.Fprintf(stderr, "%s: %s\n", solo5Name, line)
	}
	if exit.usage {
		fmt.Fprint(stderr, solo5Usage)
	}
	return 1
}

func solo5Start(words []string, stderr io.Writer) (int, error) {
	kernel, options, args, err := solo5Split(words)
	switch {
	case errors.Is(err, errSolo5Help):
		fmt.Fprint(stderr, solo5Usage)
		return 1, nil
	case errors.Is(err, errSolo5Version):
		fmt.Fprintf(stderr, "%s tender, version uvm-%s\nABI version 2\n", solo5Name, version)
		return 0, nil
	case err != nil:
		return 1, err
	}
	if kernel == "" {
		return 1, solo5Fail(": Could not open: %s", cError(syscall.ENOENT))
	}
	run, err := solo5Options(options, nil)
	if err == nil && run.needManifest() {
		err = errSolo5Manifest
	}
	if err != nil {
		// Solo5 looks at the kernel before the options, and at names while it
		// reads them. Only a run that fails anyway pays for the second look.
		if err := solo5Explain(kernel, options); err != nil {
			return 1, err
		}
	}
	run.kernel, run.args = kernel, args
	return run.start(stderr)
}

var (
	errSolo5Help     = errors.New("help")
	errSolo5Version  = errors.New("version")
	errSolo5Manifest = errors.New("options for devices that are not attached")
)

// solo5Split finds the kernel: the first word that does not begin with a dash,
// or the one after "--". All after it is the guest's.
func solo5Split(words []string) (kernel string, options, args []string, err error) {
	i := 0
	for ; i < len(words) && strings.HasPrefix(words[i], "-"); i++ {
		switch words[i] {
		case "--help":
			return "", nil, nil, errSolo5Help
		case "--version":
			return "", nil, nil, errSolo5Version
		}
		if words[i] == "--" {
			break
		}
	}
	options = words[:i]
	if i < len(words) && words[i] == "--" {
		i++
	}
	if i == len(words) {
		return "", nil, nil, &solo5Exit{lines: []string{"Missing KERNEL operand"}, usage: true}
	}
	return words[i], options, words[i+1:], nil
}

// solo5Explain returns the error that Solo5's tender would give for these
// options, or nil.
func solo5Explain(kernel string, options []string) error {
	img, err := loader.Open(kernel, nil, loader.KindHVT)
	if err != nil {
		return solo5Error(err, nil)
	}
	defer img.Close()
	_, err = solo5Options(options, img.Manifest)
	return err
}

// start builds and runs the VM.
func (r *solo5Run) start(stderr io.Writer) (int, error) {
	const page, most = 2 << 20, 4 << 30
	mem := max(r.mem/page*page, page)
	if mem != r.mem {
		fmt.Fprintf(stderr, "%s: adjusting memory to %d bytes\n", solo5Name, mem)
	}
	if mem > most {
		return 1, solo5Fail("guest memory size %d bytes exceeds the max size %d bytes", mem, uint64(most))
	}
	cfg := vmm.Config{
		Boot:   loader.KindHVT,
		Kernel: r.kernel, Args: r.args, Memory: mem, Console: os.Stdout, NoMarks: true,
		Ring: vmm.Ring(os.Getenv("UVM_RING")), TSSAvailable: labTSS(), // Solo5's syntax has no room for it
	}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	for _, n := range r.nets {
		cfg.Nets = append(cfg.Nets, n.Net)
	}
	for _, d := range r.disks {
		cfg.Disks = append(cfg.Disks, d.Disk)
	}
	mode := os.Getenv("UVM_NET_RING")
	if r.noRing {
		mode = "off"
	}
	if err := setNetRing(mode, &cfg); err != nil {
		return 1, solo5Error(err, r)
	}
	ctx, _, ready := interruptible()
	threads := busy(&cfg)
	time.AfterFunc(pinnedTime, func() { unpin(threads) })
	vm, err := vmm.New(cfg)
	if err != nil {
		return 1, solo5Error(err, r)
	}
	<-ready
	res, err := vm.Run(ctx)
	r.dumpCore(vm, res, err, stderr)
	if err == nil {
		return res.Status & 0xff, nil
	}
	if end := outcomeOf(res, err); end.Status == exitSignal+int(syscall.SIGPIPE) {
		return end.Status, nil
	}
	return 1, solo5Error(err, r)
}

// dumpCore writes what Solo5's own tender does, under the same name, when a guest has aborted, and also when a fault has
// ended it.
func (r *solo5Run) dumpCore(vm *vmm.VM, res vmm.Result, err error, stderr io.Writer) {
	crash := debugger.Crash{Kernel: r.kernel, Args: r.args, Result: res, Err: err}
	if r.core == "" || !crash.Abnormal() {
		return
	}
	name := fmt.Sprintf("core.%s.%d", solo5Name, os.Getpid())
	if path, err := crash.Dump(vm, r.core, name); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", solo5Name, err)
	} else {
		fmt.Fprintf(stderr, "%s: dumpcore: dumped guest core to: %s\n", solo5Name, path)
	}
}

const solo5Usage = `usage: solo5-hvt [ CORE OPTIONS ] [ MODULE OPTIONS ] [ -- ] KERNEL [ ARGS ]
KERNEL is the filename of the unikernel to run.
ARGS are optional arguments passed to the unikernel.
Core options:
  [ --mem=512 ] (guest memory in MB)
  [ --no-net-ring ] (disable the net ring buffer)
  [ --dumpcore=DIR ] (save guest coredump to DIR)
    --help (display this help)
    --version (display version information)
Compiled-in modules: core block net 
Compiled-in module options:
    --block:NAME=PATH (attach block device/file at PATH as block storage NAME)
  [ --block-sector-size:NAME=SECTORSIZE ] (set sector size for block device NAME; must be a power of two greater than or equal 512)
    --net:NAME=IFACE | @NN (attach tap at IFACE or at fd @NN as network NAME)
  [ --net-mac:NAME=HWADDR ] (set HWADDR for network NAME)
`
