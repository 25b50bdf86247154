package appscan

import (
	"debug/elf"
	"debug/gosym"
	"strings"
)

// goFunc is a function of Go's that makes the system call that its first
// argument says.
type goFunc struct {
	end    uint64
	number int // where the argument is: ax, or sp if the function is in assembly language
}

// goSyscalls are the functions through which all system calls of Go programs go
// that have no instruction of their own.
var goSyscalls = map[string]int{
	"syscall.Syscall": ax, "syscall.Syscall6": ax, "syscall.RawSyscall": ax, "syscall.RawSyscall6": ax,
	"syscall.rawSyscallNoError": ax, "syscall.rawVforkSyscall": sp,
	"internal/runtime/syscall/linux.Syscall6": ax, "internal/runtime/syscall.Syscall6": ax, "runtime/internal/syscall.Syscall6": ax,
	"golang.org/x/sys/unix.Syscall": sp, "golang.org/x/sys/unix.Syscall6": sp, "golang.org/x/sys/unix.SyscallNoError": sp,
	"golang.org/x/sys/unix.RawSyscall": sp, "golang.org/x/sys/unix.RawSyscall6": sp, "golang.org/x/sys/unix.RawSyscallNoError": sp,
}

// readGo finds those functions by the table that Go's programs carry for their
// stack traces, which stripping leaves.
func (o *object) readGo(f *elf.File) {
	table, text := f.Section(".gopclntab"), f.Section(".text")
	for _, s := range f.Sections {
		if table == nil && strings.HasSuffix(s.Name, ".gopclntab") {
			table = s // position-independent
		}
	}
	if table == nil || text == nil || table.Flags&elf.SHF_ALLOC == 0 {
		return
	}
	b, err := table.Data()
	if err != nil {
		return
	}
	symbols, err := gosym.NewTable(nil, gosym.NewLineTable(b, text.Addr))
	if err != nil {
		return
	}
	o.golang = true
	o.goFuncs = map[uint64]goFunc{}
	for _, fn := range symbols.Funcs {
		if number, ok := goSyscalls[fn.Name]; ok {
			o.goFuncs[fn.Entry] = goFunc{fn.End, number}
		}
	}
}

// inGoSyscall says whether a belongs to one of those functions, whose number its caller knows.
func (o *object) inGoSyscall(a uint64) bool {
	for entry, f := range o.goFuncs {
		if a >= entry && a < f.end {
			return true
		}
	}
	return false
}
