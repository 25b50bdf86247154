// Package inside holds tests that only the lab's own tests run, inside it.
package inside

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDisk reads all of /dev/vda, which the test outside has filled with a
// block in each MiB, and changes each. It is the lab that writes back what is
// still in memory then.
func TestDisk(t *testing.T) {
	f, err := os.OpenFile("/dev/vda", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	if memory := int64(info.Totalram) * int64(info.Unit); size <= memory {
		t.Errorf("/dev/vda has %d bytes, memory %d; want a larger disk", size, memory)
	}
	buf := make([]byte, 1<<20)
	zero := make([]byte, 1<<20-4096)
	for mib := range size >> 20 {
		if _, err := f.ReadAt(buf, mib<<20); err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte{1, byte(mib), byte(mib >> 8), 0x5a}, 1024)
		if !bytes.Equal(buf[:4096], want) || !bytes.Equal(buf[4096:], zero) {
			t.Fatalf("block at %d MiB = % x…; want % x…, then zeros", mib, buf[:4], want[:4])
		}
		for i := 0; i < 4096; i += 4 {
			buf[i] = 2
		}
		if _, err := f.WriteAt(buf[:4096], mib<<20); err != nil {
			t.Fatal(err)
		}
	}
}
