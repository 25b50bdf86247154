package devices

import "fmt"

// eachByte makes of a wide access to 8-bit registers what an ISA bus makes of
// it: one access to each of the ports that it spans. What a device has no
// register for there reads all ones, and a write to it is lost.
func eachByte(port uint16, size int, data []byte, access func(port uint16, b *byte) error) error {
	for i := range data {
		if err := access(port+uint16(i%max(size, 1)), &data[i]); err != nil {
			return err
		}
	}
	return nil
}

// LoadState copies a saved state s to dst if it has that length, and its first bytes have
// no bits but those in bits.
func LoadState(device string, dst, s, bits []byte) error {
	if len(s) != len(dst) {
		return fmt.Errorf("%s: saved state has %d bytes, need %d", device, len(s), len(dst))
	}
	for i, b := range bits {
		if s[i]&^b != 0 {
			return fmt.Errorf("%s: byte %d of the saved state is %#x, need only bits of %#x", device, i, s[i], b)
		}
	}
	copy(dst, s)
	return nil
}
