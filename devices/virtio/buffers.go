package virtio

// total is how many bytes bufs have.
func total(bufs [][]byte) (n uint64) {
	for _, b := range bufs {
		n += uint64(len(b))
	}
	return n
}

// gather fills b with the first bytes of bufs, scatter copies b to them, as far as
// both reach; they return how many bytes that was.
func gather(b []byte, bufs [][]byte) (n int) {
	for _, buf := range bufs {
		n += copy(b[n:], buf)
	}
	return n
}

func scatter(bufs [][]byte, b []byte) (n int) {
	for _, buf := range bufs {
		n += copy(buf, b[n:])
	}
	return n
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
