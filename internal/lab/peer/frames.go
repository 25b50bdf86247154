package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// frames sends count frames, or without end if that is 0, on an interface, with a pause of
// so many microseconds after each: of all lengths that the kernel takes and those around, with all kinds of contents, and
// behind vnet headers (struct virtio_net_hdr) that ask for what the frames do not have.
// It ends with the interface.
func frames(name, count, pause string) error {
	n, err := number(count, 32)
	if err != nil {
		return err
	}
	us, err := number(pause, 32)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	// No protocol: it receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket(AF_PACKET)", err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return os.NewSyscallError("setsockopt(PACKET_VNET_HDR)", err)
	}
	to := &unix.SockaddrLinklayer{Ifindex: int(ifr.Uint32()), Halen: 6}
	rng := rand.New(rand.NewPCG(3, 4))
	sent, refused := 0, map[error]int{}
	for i := uint64(0); n == 0 || i < n; i++ {
		switch err := unix.Sendto(fd, oddFrame(rng), 0, to); {
		case err == nil:
			sent++
		case errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV):
			n = i // it is gone
		case errors.Is(err, unix.ENETDOWN):
			time.Sleep(time.Millisecond)
		default:
			refused[err]++
		}
		time.Sleep(time.Duration(us) * time.Microsecond)
	}
	fmt.Printf("sent %d frames, refused: %v\n", sent, refused)
	return nil
}

// oddFrame is a vnet header and what may be a frame.
func oddFrame(rng *rand.Rand) []byte {
	const header = 10
	sizes := []int{0, 1, 13, 14, 15, 59, 60, 64, 1513, 1514, 1515, 1518, 9000, 65535, 14 + rng.IntN(1500), 14 + rng.IntN(65536)}
	b := make([]byte, header+sizes[rng.IntN(len(sizes))])
	if rng.IntN(4) == 0 { // something to segment, with lengths of all kinds
		b[0], b[1] = byte(rng.IntN(4)), []byte{0, 1, 3, 4, 5, 0x81, 0xff}[rng.IntN(7)]
		for i := 2; i < header; i += 2 {
			binary.LittleEndian.PutUint16(b[i:], uint16(rng.Uint32())>>rng.IntN(16))
		}
	}
	f := b[header:]
	for i := range min(len(f), 128) {
		f[i] = byte(rng.Uint32())
	}
	if len(f) >= 24 {
		f[0] = 0xff * byte(rng.IntN(2)) // to all, or to somebody
		types := []uint16{0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x0000, 0x05dc, 0xffff}
		binary.BigEndian.PutUint16(f[12:], types[rng.IntN(len(types))])
		f[14] = []byte{0x45, 0x4f, 0x60, 0x00, 0xff}[rng.IntN(5)]
		f[23] = []byte{1, 6, 17, 255}[rng.IntN(4)]
	}
	return b
}
