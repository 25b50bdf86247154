package virtio

import "testing"

// TestQueue passes one chain through.
func TestQueue(t *testing.T) {
	d := newDriver(t, 8, FeatureEventIdx)
	head, in := d.add([][]byte{[]byte("abc"), []byte("de")}, 4)
	var c Chain
	ok, err := d.q.Pop(&c)
	if !ok || err != nil {
		t.Fatalf("Pop = %v, %v; want a chain", ok, err)
	}
	if c.Head != head || len(c.Out) != 2 || string(c.Out[0])+string(c.Out[1]) != "abcde" || len(c.In) != 1 {
		t.Errorf("Pop gives %+v; want head %d with abcde and one buffer to write", c, head)
	}
	copy(c.In[0], "1234")
	d.q.Push(c.Head, 4)
	if h, n, ok := d.done(); h != uint32(head) || n != 4 || !ok || string(in[0]) != "1234" {
		t.Errorf("used element = %d, %d, %v with %q; want %d, 4 and 1234", h, n, ok, in[0], head)
	}
	if !d.q.interrupt() || d.q.interrupt() {
		t.Error("interrupt() was not true exactly once")
	}
	if ok, err := d.q.Pop(&c); ok || err != nil {
		t.Errorf("Pop of an empty queue = %v, %v; want false", ok, err)
	}
}
