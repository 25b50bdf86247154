package virtio

// Buffers are parts of guest memory that belong together, in their order. How a
// driver cuts a message into buffers means nothing (section 2.7.4).
type Buffers [][]byte

// Len is how many bytes they have.
func (b Buffers) Len() (n uint64) {
	for _, buf := range b {
		n += uint64(len(buf))
	}
	return n
}

// CopyTo fills p with their first bytes, as far as both reach, and returns how many
// bytes that was.
func (b Buffers) CopyTo(p []byte) (n int) {
	for _, buf := range b {
		n += copy(p[n:], buf)
	}
	return n
}

// CopyFrom copies p to them, as far as both reach, and returns how many bytes that
// was.
func (b Buffers) CopyFrom(p []byte) (n int) {
	for _, buf := range b {
		n += copy(buf, p[n:])
	}
	return n
}

// Skip returns b without its first n bytes; it cuts b's own slices.
func (b Buffers) Skip(n uint64) Buffers {
	for len(b) > 0 && n >= uint64(len(b[0])) {
		n -= uint64(len(b[0]))
		b = b[1:]
	}
	if len(b) > 0 {
		b[0] = b[0][n:]
	}
	return b
}
