package virtio

// total is how many bytes bufs have.
func total(bufs [][]byte) (n uint64) {
	for _, b := range bufs {
		n += uint64(len(b))
	}
	return n
}

// gather copies the first bytes of bufs to b and returns what follows them; it
// cuts bufs' own slices. ok says that there were enough to fill b.
func gather(b []byte, bufs [][]byte) (rest [][]byte, ok bool) {
	for len(b) > 0 && len(bufs) > 0 {
		n := copy(b, bufs[0])
		b, bufs = b[n:], advance(bufs, n)
	}
	return bufs, len(b) == 0
}

// scatter copies b to the first bytes of bufs, as gather does the other way.
func scatter(bufs [][]byte, b []byte) (rest [][]byte, ok bool) {
	for len(b) > 0 && len(bufs) > 0 {
		n := copy(bufs[0], b)
		b, bufs = b[n:], advance(bufs, n)
	}
	return bufs, len(b) == 0
}

// advance drops the first n bytes of the first slice, and the slice if that is all.
func advance(bufs [][]byte, n int) [][]byte {
	if bufs[0] = bufs[0][n:]; len(bufs[0]) == 0 {
		return bufs[1:]
	}
	return bufs
}
