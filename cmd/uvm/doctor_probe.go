package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/vmm"
)

// probe is a unikernel that executes one instruction in ring 0 and halts.
type probe struct {
	name string
	code []byte
}

// ring0Probes are instructions that ordinary compiled code contains and that
// KVM's emulator is known to lack.
var ring0Probes = []probe{
	{"SSE", []byte{0x0f, 0x28, 0xc1}},          // movaps xmm0, xmm1
	{"SSE2", []byte{0x66, 0x0f, 0xfe, 0xc1}},   // paddd xmm0, xmm1
	{"x87", []byte{0xd9, 0xe8}},                // fld1
	{"popcnt", []byte{0xf3, 0x0f, 0xb8, 0xc0}}, // popcnt eax, eax
	{"cmpxchg16b", []byte{0x0f, 0xc7, 0x0e}},   // cmpxchg16b [rsi], rsi set below
	{"xadd", []byte{0xf0, 0x0f, 0xc1, 0x06}},   // lock xadd [rsi], eax
	{"cpuid", []byte{0x31, 0xc0, 0x0f, 0xa2}},  // xor eax, eax; cpuid
	{"rdtsc", []byte{0x0f, 0x31}},              // rdtsc
	{"wrfsbase", []byte{0x31, 0xc0, 0x31, 0xd2, // xor eax, eax; xor edx, edx
		0xb9, 0x00, 0x01, 0x00, 0xc0, // mov ecx, 0xc0000100 (FS base)
		0x0f, 0x30}}, // wrmsr
}

// haltPort is the hypercall HALT.
const haltPort = 0x508

// halt is a HALT with the zeroed structure at the start of the data page.
func halt() []byte { return hvtelf.Out(haltPort, hvtelf.DataAddr) }

// run says whether the instruction could be executed.
func (p probe) run() (bool, error) {
	// be 40 00 11 00  mov esi, DataAddr+0x40
	code := append([]byte{0xbe, 0x40, 0x00, 0x11, 0x00}, p.code...)
	err := runProbe(append(code, halt()...), vmm.Config{Ring: vmm.Ring0})
	var guest *vmm.GuestError
	if errors.As(err, &guest) {
		return false, nil
	}
	return err == nil, err
}

// probeTime bounds a probe; each takes a few milliseconds at most.
const probeTime = 5 * time.Second

// runProbe runs code as a guest of its own, with what cfg says besides.
func runProbe(code []byte, cfg vmm.Config) error {
	elf := hvtelf.Guest{Code: code, Data: make([]byte, 128)}.ELF()
	cfg.Kernel, cfg.KernelFile, cfg.TSSAvailable = "probe", bytes.NewReader(elf), labTSS()
	return runVM(cfg)
}

// runVM runs a guest that needs probeTime at most.
func runVM(cfg vmm.Config) error {
	vm, err := vmm.New(cfg)
	if err != nil {
		return err
	}
	defer vm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	_, err = vm.Run(ctx)
	return err
}

// ring0Speed times a loop of two instructions: the difference between a long
// and a short run, divided by the turns, in ns.
func ring0Speed() (float64, error) {
	const turns = 20000
	loop := func(n uint32) (time.Duration, error) {
		// b9 imm32  mov ecx, n
		// ff c9     dec ecx
		// 75 fc     jnz -4
		code := append([]byte{0xb9, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), 0xff, 0xc9, 0x75, 0xfc}, halt()...)
		start := time.Now()
		err := runProbe(code, vmm.Config{Ring: vmm.Ring0})
		return time.Since(start), err
	}
	short, err := loop(1)
	if err != nil {
		return 0, fmt.Errorf("timing ring 0: %w", err)
	}
	long, err := loop(turns)
	if err != nil {
		return 0, fmt.Errorf("timing ring 0: %w", err)
	}
	return max(float64(long-short), 0) / turns, nil
}
