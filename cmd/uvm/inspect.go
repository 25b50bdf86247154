package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// inspection is the JSON of `uvm inspect --json`.
type inspection struct {
	Path     string        `json:"path"`
	Kind     loader.Kind   `json:"kind"`
	ABI      uint32        `json:"abi_version,omitempty"` // of Solo5 hvt
	Native   *nativeInfo   `json:"native,omitempty"`      // uvm's own note
	Linux    *linuxInfo    `json:"linux,omitempty"`       // pvh and linux
	Entry    hexAddr       `json:"entry"`
	End      hexAddr       `json:"end"`
	Memory   memSize       `json:"minimum_memory"`
	Devices  []deviceInfo  `json:"devices,omitzero"` // hvt only: others ask for none
	Segments []segmentInfo `json:"segments"`
	Problem  string        `json:"problem,omitempty"` // why it would not load
}

type deviceInfo struct {
	Handle int    `json:"handle"`
	Type   string `json:"type"`
	Name   string `json:"name"`
}

type segmentInfo struct {
	Addr     hexAddr `json:"address"`
	FileSize uint64  `json:"file_bytes"`
	MemSize  uint64  `json:"memory_bytes"`
	Perm     string  `json:"permissions"`
	Key      uint8   `json:"protection_key,omitempty"`
}

// linuxInfo is what a kernel for the PC-like machine says.
type linuxInfo struct {
	Format     string  `json:"format"`             // elf or bzImage
	Version    string  `json:"version,omitempty"`  // bzImage: what the kernel calls itself
	Protocol   string  `json:"protocol,omitempty"` // bzImage: of the Linux boot protocol
	Start      hexAddr `json:"start"`              // of the memory that it needs, up to End; 0 = would not load
	InitrdMax  hexAddr `json:"initrd_max"`         // highest address of an initrd's last byte
	CmdlineMax int     `json:"command_line_max"`
}

// nativeInfo is what uvm's own note says (docs/abi.md, "uvm's own note").
type nativeInfo struct {
	Version uint32 `json:"version"`
	Flags   uint32 `json:"flags"`
	Sealed  bool   `json:"sealed"`         // starts without a privileged instruction
	Keys    bool   `json:"keys"`           // its segments may have protection keys
	HTTP    bool   `json:"http,omitempty"` // serves HTTP on port 80
}

func (n *nativeInfo) String() string {
	s := fmt.Sprintf("version %d, flags %#x", n.Version, n.Flags)
	if n.Sealed {
		s += ": starts without a privileged instruction"
	}
	if n.Keys {
		s += ", has protection keys"
	}
	if n.HTTP {
		s += ", serves HTTP"
	}
	return s
}

type hexAddr uint64

func (a hexAddr) String() string { return fmt.Sprintf("%#x", uint64(a)) }

// MarshalText writes the address in hexadecimal.
func (a hexAddr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func inspectMain(args []string) int {
	f := newFlags("inspect")
	asJSON := f.Bool("json", false, "print JSON")
	if status := parse(f, "inspect", args); status >= 0 {
		return status
	}
	path, status := oneKernel(f)
	if status >= 0 {
		return status
	}
	img, err := loader.Open(path, nil, "")
	if err != nil {
		return fail(exitKernel, "%v", err)
	}
	defer img.Close()
	in := inspect(img)
	if *asJSON {
		return printJSON(in)
	}
	in.print()
	return exitOK
}

func inspect(img *loader.Image) *inspection {
	const (
		mostMemory, unit = 4 << 30, 2 << 20 // what the hvt ABI allows, and in which steps
		mostLowMemory    = 3 << 30          // what any PC-like machine can have below its device hole
	)
	in := &inspection{
		Path: img.Path, Kind: img.Kind, ABI: img.ABI, Entry: hexAddr(img.Entry), Segments: []segmentInfo{},
	}
	var end memory.Addr
	var err error
	if l := img.Linux; l != nil {
		if err = img.FitPC(mostLowMemory); err == nil {
			end = l.End
		}
		in.Linux = inspectLinux(img)
	} else {
		end, err = img.Fit(mostMemory)
		in.Devices = []deviceInfo{}
		for h, d := range img.Manifest.Entries {
			if d.Type != loader.DeviceReserved {
				in.Devices = append(in.Devices, deviceInfo{h, d.Type.String(), d.Name})
			}
		}
	}
	if err != nil {
		in.Problem = err.Error()
	} else {
		in.End = hexAddr(end)
		in.Memory = memSize((uint64(end) + unit - 1) / unit * unit)
	}
	if n := img.Native; n != nil {
		in.Native = &nativeInfo{n.Version, uint32(n.Flags), n.Flags&loader.NativeSealed != 0, n.Flags&loader.NativeKeys != 0, n.Flags&nativeHTTP != 0}
	}
	for _, s := range img.Segments {
		in.Segments = append(in.Segments, segmentInfo{
			hexAddr(s.Addr), s.FileSize, s.MemSize, flagString(s.R, "r") + flagString(s.W, "w") + flagString(s.X, "x"), s.Key,
		})
	}
	return in
}

func inspectLinux(img *loader.Image) *linuxInfo {
	const header = 0x1f1 // where img.Linux.Header lies in the file
	l := img.Linux
	info := &linuxInfo{Format: "elf", Start: hexAddr(l.Start), InitrdMax: hexAddr(l.InitrdMax), CmdlineMax: l.CmdlineMax}
	if h := l.Header; h != nil {
		field := func(off int) uint16 { return binary.LittleEndian.Uint16(h[off-header:]) }
		info.Format = "bzImage"
		info.Protocol = fmt.Sprintf("%d.%02d", field(0x206)>>8, field(0x206)&0xff)
		if off, sects := field(0x20e), uint16(h[0]); off != 0 && (sects == 0 || off < sects*512) {
			info.Version = kernelVersion(img.Path, int64(off)+512)
		}
	}
	return info
}

// kernelVersion is the string that a bzImage has at off. It is there for people
// only: what cannot be read is "".
func kernelVersion(path string, off int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.ReadAt(b, off)
	s, _, _ := strings.Cut(string(b[:n]), "\x00")
	return strings.ToValidUTF8(s, "?")
}

func flagString(on bool, s string) string {
	if on {
		return s
	}
	return "-"
}

func (in *inspection) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	if in.Linux != nil {
		in.Linux.print(w, in.Kind)
	} else {
		fmt.Fprintf(w, "kind\t%s (Solo5 ABI version %d)\n", in.Kind, in.ABI)
	}
	if in.Native != nil {
		fmt.Fprintf(w, "native\t%v\n", in.Native)
	}
	fmt.Fprintf(w, "entry\t%v\n", in.Entry)
	if in.Problem != "" {
		fmt.Fprintf(w, "problem\t%s\n", in.Problem)
	} else if in.Linux != nil {
		fmt.Fprintf(w, "memory\t%v to %v, so --memory %v at the very least, and more for an initrd\n", in.Linux.Start, in.End, in.Memory)
	} else {
		fmt.Fprintf(w, "memory\tends at %v, so --memory %v at the very least\n", in.End, in.Memory)
	}
	for _, d := range in.Devices {
		fmt.Fprintf(w, "device %d\t%s %q\n", d.Handle, d.Type, d.Name)
	}
	if in.Devices != nil && len(in.Devices) == 0 {
		fmt.Fprintf(w, "devices\tnone\n")
	}
	for _, s := range in.Segments {
		key := ""
		if s.Key != 0 {
			key = fmt.Sprintf(", protection key %d", s.Key)
		}
		fmt.Fprintf(w, "segment\t%v %s %d bytes in memory, %d from the file%s\n", s.Addr, s.Perm, s.MemSize, s.FileSize, key)
	}
}

func (l *linuxInfo) print(w io.Writer, kind loader.Kind) {
	format, protocol := "ELF", "Linux 64-bit boot protocol"
	if kind == loader.KindPVH {
		protocol = "Xen PVH entry"
	}
	if l.Protocol != "" {
		format, protocol = "bzImage", protocol+" "+l.Protocol
	}
	fmt.Fprintf(w, "kind\t%s (%s, %s)\n", kind, format, protocol)
	if l.Version != "" {
		fmt.Fprintf(w, "version\t%q\n", l.Version)
	}
	fmt.Fprintf(w, "limits\tcommand line of %d bytes, initrd up to %v\n", l.CmdlineMax, l.InitrdMax)
}
