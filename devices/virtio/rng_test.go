package virtio

import (
	"bytes"
	"testing"
)

func TestRNG(t *testing.T) {
	g := newGuest(t, NewRNG())
	d := g.start(FeatureEventIdx)[0]
	sizes := []int{1, 7, 64, 255, 256, 257, 5000}
	bufs := make([][]byte, len(sizes))
	for i, n := range sizes {
		_, in := d.Add(nil, n, 8)
		bufs[i] = in[0]
		if !bytes.Equal(in[1], make([]byte, 8)) {
			t.Fatal("buffers are not fresh")
		}
	}
	g.serve()
	for i, n := range sizes {
		want := min(n, 256)
		_, written, ok := d.Done()
		if !ok || written != uint32(want) {
			t.Errorf("buffer of %d bytes: %d written, %v; want %d", n, written, ok, want)
		}
		// That 64 random bytes or more are all zero, or the same twice, does not happen.
		if b := bufs[i]; n >= 64 && (bytes.Equal(b[:64], make([]byte, 64)) || i > 2 && bytes.Equal(b[:64], bufs[i-1][:64])) {
			t.Errorf("buffer of %d bytes holds %x", n, b[:64])
		}
		if b := bufs[i]; n > 256 && !bytes.Equal(b[256:], make([]byte, n-256)) {
			t.Errorf("buffer of %d bytes: written beyond what was said", n)
		}
	}
	if g.irqs.Load() != 1 {
		t.Errorf("%d interrupts; want 1 for all", g.irqs.Load())
	}
}

func TestRNGLies(t *testing.T) {
	for name, lie := range map[string]func(d *driver){
		"nothing to write":   func(d *driver) { d.Add([][]byte{{1}}) },
		"something to read":  func(d *driver) { d.Add([][]byte{{1}}, 8) },
		"nothing at all":     func(d *driver) { d.Desc(0, 0, 0, 0, 0); d.Offer(0) },
		"outside the memory": func(d *driver) { d.Desc(0, end, 1, descWrite, 0); d.Offer(0) },
	} {
		g := newGuest(t, NewRNG())
		lie(g.start(0)[0])
		g.serve()
		g.refused(name, "")
		d := g.start(0)[0]
		d.Add(nil, 8)
		g.serve()
		if _, n, _ := d.Done(); n != 8 {
			t.Errorf("%s, then a reset: %d bytes; want 8", name, n)
		}
	}
	// Without a queue there is nothing to do.
	g := newGuest(t, NewRNG())
	g.negotiate(0)
	g.set(regStatus, statusRunning)
	g.serve()
	g.check("no queue", regStatus, statusRunning)
}
