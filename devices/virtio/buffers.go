package virtio

// total is how many bytes bufs have.
func total(bufs [][]byte) (n uint64) {
	for _, b := range bufs {
		n += uint64(len(b))
	}
	return n
}

// gather fills b with the first bytes of bufs, scatter copies b to them, as far as
// both reach.
func gather(b []byte, bufs [][]byte) {
	for _, buf := range bufs {
		b = b[copy(b, buf):]
	}
}

func scatter(bufs [][]byte, b []byte) {
	for _, buf := range bufs {
		b = b[copy(buf, b):]
	}
}

// drop returns bufs without their first n bytes; it cuts bufs' own slices.
func drop(bufs [][]byte, n uint64) [][]byte {
	for len(bufs) > 0 && n >= uint64(len(bufs[0])) {
		n -= uint64(len(bufs[0]))
		bufs = bufs[1:]
	}
	if len(bufs) > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}
