package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/uvm-monitor/uvm/loader"
)

// inspection is the JSON of `uvm inspect --json`.
type inspection struct {
	Path     string        `json:"path"`
	Kind     loader.Kind   `json:"kind"`
	ABI      uint32        `json:"abi_version"`
	Native   *nativeInfo   `json:"native,omitempty"` // uvm's own note
	Entry    hexAddr       `json:"entry"`
	End      hexAddr       `json:"end"`
	Memory   memSize       `json:"minimum_memory"`
	Devices  []deviceInfo  `json:"devices"`
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

// nativeInfo is what uvm's own note says (docs/abi.md, "uvm's own note").
type nativeInfo struct {
	Version uint32 `json:"version"`
	Flags   uint32 `json:"flags"`
	Sealed  bool   `json:"sealed"` // starts without a privileged instruction
	Keys    bool   `json:"keys"`   // its segments may have protection keys
}

func (n *nativeInfo) String() string {
	s := fmt.Sprintf("version %d, flags %#x", n.Version, n.Flags)
	if n.Sealed {
		s += ": starts without a privileged instruction"
	}
	if n.Keys {
		s += ", has protection keys"
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
	img, err := loader.Open(path, "")
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
	const mostMemory, unit = 4 << 30, 2 << 20 // what the hvt ABI allows, and in which steps
	in := &inspection{
		Path: img.Path, Kind: img.Kind, ABI: img.ABI.Version, Entry: hexAddr(img.Entry),
		Devices: []deviceInfo{}, Segments: []segmentInfo{},
	}
	if end, err := img.Fit(mostMemory); err != nil {
		in.Problem = err.Error()
	} else {
		in.End = hexAddr(end)
		in.Memory = memSize((uint64(end) + unit - 1) / unit * unit)
	}
	for h, d := range img.Manifest.Entries {
		if d.Type != loader.DeviceReserved {
			in.Devices = append(in.Devices, deviceInfo{h, d.Type.String(), d.Name})
		}
	}
	if n := img.Native; n != nil {
		in.Native = &nativeInfo{n.Version, uint32(n.Flags), n.Flags&loader.NativeSealed != 0, n.Flags&loader.NativeKeys != 0}
	}
	for _, s := range img.Segments {
		in.Segments = append(in.Segments, segmentInfo{
			hexAddr(s.Addr), s.FileSize, s.MemSize, flagString(s.R, "r") + flagString(s.W, "w") + flagString(s.X, "x"), s.Key,
		})
	}
	return in
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
	fmt.Fprintf(w, "kind\t%s (Solo5 ABI version %d)\n", in.Kind, in.ABI)
	if in.Native != nil {
		fmt.Fprintf(w, "native\t%v\n", in.Native)
	}
	fmt.Fprintf(w, "entry\t%v\n", in.Entry)
	if in.Problem != "" {
		fmt.Fprintf(w, "problem\t%s\n", in.Problem)
	} else {
		fmt.Fprintf(w, "memory\tends at %v, so --memory %v at the very least\n", in.End, in.Memory)
	}
	for _, d := range in.Devices {
		fmt.Fprintf(w, "device %d\t%s %q\n", d.Handle, d.Type, d.Name)
	}
	if len(in.Devices) == 0 {
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
