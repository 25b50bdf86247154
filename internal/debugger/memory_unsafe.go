package debugger

import (
	"os"
	"unsafe"
)

// hostMemory is this process's memory by way of the kernel, which reads and writes what the guest, and so the monitor, may not:
// a guest's text can be changed without lifting its protection, and a page that cannot be read is an error instead of a
// signal.
type hostMemory struct{ file *os.File }

func openHostMemory() (*hostMemory, error) {
	f, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	return &hostMemory{f}, err
}

func address(b []byte) int64 { return int64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// read copies what is at host, a slice of a mapping, to b, which is no longer.
func (m *hostMemory) read(b, host []byte) error {
	_, err := m.file.ReadAt(b, address(host))
	return err
}

// write is the reverse of read.
func (m *hostMemory) write(host, b []byte) error {
	_, err := m.file.WriteAt(b, address(host))
	return err
}
