// Package runlog is what becomes of the words of a guest and of its monitor: a ring of the last of them, lines for
// the log at a bounded rate, and a log file of bounded size. The guest decides what it says and how often; nothing
// here blocks it, and nothing grows without bound.
package runlog

import "sync"

// Source says whose words they are.
type Source string

// The sources.
const (
	Console Source = "console" // the guest's
	Monitor Source = "monitor" // uvm's own
)

const (
	chunkSize = 1 << 10
	chunks    = 64
)

// Ring keeps the last RingSize bytes of all words, or less, since a change of the source begins a new piece. Any
// goroutine may use it. The zero value is ready, and takes memory as words come.
type Ring struct {
	mu     sync.Mutex
	pieces []piece       // up to chunks, then the oldest is used again
	last   int           // the piece that is being filled
	more   chan struct{} // closed by the next write; nil if nobody waits
}

// RingSize is the most bytes that a Ring keeps.
const RingSize = chunks * chunkSize

// piece is up to chunkSize bytes from one source.
type piece struct {
	source Source
	start  uint64 // how many bytes had been written before
	data   []byte
}

// Write adds words. It does not wait for anybody, and allocates nothing when the ring is full.
func (r *Ring) Write(source Source, b []byte) {
	if len(b) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(b) > 0 {
		p := r.piece(source)
		n := min(len(b), chunkSize-len(p.data))
		p.data, b = append(p.data, b[:n]...), b[n:]
	}
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// piece is where the next words of source go: it has room.
func (r *Ring) piece(source Source) *piece {
	end := uint64(0)
	if len(r.pieces) > 0 {
		p := &r.pieces[r.last]
		if p.source == source && len(p.data) < chunkSize {
			return p
		}
		end = p.start + uint64(len(p.data))
		r.last = (r.last + 1) % chunks
	}
	if r.last == len(r.pieces) {
		r.pieces = append(r.pieces, piece{})
	}
	p := &r.pieces[r.last]
	p.source, p.start, p.data = source, end, p.data[:0]
	return p
}

// Next returns a copy of the words at a position, which is 0 for the oldest: those of one source, at most chunkSize
// bytes, and the position behind them. lost is how many bytes had been overwritten at pos. Where there is
// nothing yet, more is closed when there is.
func (r *Ring) Next(pos uint64) (source Source, data []byte, lost, next uint64, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.pieces {
		p := &r.pieces[(r.last+1+i)%len(r.pieces)]
		if pos < p.start {
			lost, pos = p.start-pos, p.start
		}
		if off := pos - p.start; off < uint64(len(p.data)) {
			data = append(data, p.data[off:]...)
			return p.source, data, lost, pos + uint64(len(data)), nil
		}
	}
	if r.more == nil {
		r.more = make(chan struct{})
	}
	return "", nil, lost, pos, r.more
}

// Writer writes to the ring for one source.
func (r *Ring) Writer(source Source) Writer { return Writer{r, source} }

// Writer is an io.Writer that always succeeds.
type Writer struct {
	ring   *Ring
	source Source
}

// Write adds words to the ring.
func (w Writer) Write(b []byte) (int, error) {
	w.ring.Write(w.source, b)
	return len(b), nil
}
