package virtio

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

func eventfd(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func signal(t testing.TB, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

// newPipe returns a pipe's two ends, which the caller may close.
func newPipe(t testing.TB) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// worker runs Work on a thread of its own.
type worker struct {
	t          *testing.T
	kick, stop int
	tid        int
	done       chan struct{}
}

func (g *guest) work(t *testing.T) *worker {
	t.Helper()
	testutil.Watchdog(t)
	w := &worker{t: t, kick: eventfd(t), stop: eventfd(t), done: make(chan struct{})}
	g.kick.Store(int32(w.kick))
	tid := make(chan int, 1)
	go func() {
		defer close(w.done)
		runtime.LockOSThread()
		tid <- unix.Gettid()
		g.m.Work(w.kick, w.stop)
	}()
	w.tid = <-tid
	t.Cleanup(w.end)
	return w
}

func (w *worker) end() {
	signal(w.t, w.stop)
	<-w.done
}

// idle waits until the worker sleeps.
func (w *worker) idle() { testutil.UntilInSyscall(w.t, w.tid, unix.SYS_POLL, unix.SYS_PPOLL) }

// used waits until the device has returned a chain.
func (d *driver) waitUsed() (written uint32) {
	d.T.Helper()
	testutil.Until(d.T, "a used element", func() (ok bool) {
		_, written, ok = d.Done()
		return ok
	})
	return written
}

// TestWork rings the doorbell, of the hypervisor's and by the register.
func TestWork(t *testing.T) {
	testutil.CheckFDs(t)
	dev := newEcho()
	g := newGuest(t, dev)
	w := g.work(t)
	d := g.start(0)[0]
	for i, ring := range []func(){func() { signal(t, w.kick) }, func() { g.set(QueueNotify, 0) }} {
		w.idle()
		d.Add([][]byte{{1, 2}}, 2)
		ring()
		if n := d.waitUsed(); n != 2 {
			t.Errorf("chain %d: %d bytes written; want 2", i, n)
		}
		testutil.Until(t, "the interrupt", func() bool { return g.irqs.Load() == int32(i+1) })
	}
	// The kicks were read: the eventfd is no longer readable.
	w.idle()
	if n, err := unix.Read(w.kick, make([]byte, 8)); err != unix.EAGAIN {
		t.Errorf("read of the doorbell = %d, %v; want EAGAIN", n, err)
	}
}

// TestWorkStop: stop ends it, also when the doorbell rings all the time, and also
// while there is more to do all the time.
func TestWorkStop(t *testing.T) {
	g := newGuest(t, newEcho())
	w := g.work(t)
	for range 100 {
		signal(t, w.kick)
	}
	w.end()
	g.set(QueueNotify, 0) // nobody hears it
	unix.Read(w.stop, make([]byte, 8))

	g = newGuest(t, &endless{})
	w = g.work(t)
	g.start(0)
	g.check("while it works", regStatus, statusRunning) // gets the lock
	w.end()
	unix.Read(w.stop, make([]byte, 8))
}

// endless always has more to do.
type endless struct{ echo }

func (d *endless) PollFD() int { return -1 }
func (d *endless) Serve() error {
	d.q[0].more = true
	return nil
}

// TestWorkStart: buffers from before Work, before DRIVER_OK and before LoadState
// are served without a notification.
func TestWorkStart(t *testing.T) {
	g := newGuest(t, newEcho())
	d := g.start(0)[0]
	d.Add([][]byte{{1}}, 1)
	w := g.work(t)
	d.waitUsed()
	w.idle()
	g.negotiate(0)
	d = g.queues(0)[1]
	d.Add([][]byte{{1}}, 1)
	g.set(regStatus, statusRunning)
	d.waitUsed()
	w.end()
	unix.Read(w.stop, make([]byte, 8))

	// So are those of a state that is loaded under a worker.
	d.Add([][]byte{{1}}, 1)
	state, err := g.m.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	w = g.plug(newEcho()).work(t)
	w.idle()
	if err := g.m.LoadState(state); err != nil {
		t.Fatal(err)
	}
	d.waitUsed()
}

// TestWorkPoll: the descriptor is served while the device wants it, and not
// without a driver.
func TestWorkPoll(t *testing.T) {
	dev := newEcho()
	fd := eventfd(t)
	dev.fd = fd
	signal(t, fd) // readable for ever
	g := newGuest(t, dev)
	w := g.work(t)
	w.idle()
	if n := dev.served.Load(); n != 0 {
		t.Errorf("%d rounds without a driver; want 0", n)
	}
	g.start(0)
	testutil.Until(t, "rounds", func() bool { return dev.served.Load() > 10 })
	g.set(regStatus, 0)
	w.idle()
	n := dev.served.Load()
	for range 10 {
		signal(t, w.kick)
		w.idle()
	}
	if got := dev.served.Load(); got != n {
		t.Errorf("%d rounds after the reset; want none", got-n)
	}
}

// TestWorkHangup: a descriptor that has hung up or is none at all is served once
// more, and not for ever.
func TestWorkHangup(t *testing.T) {
	r, wr := newPipe(t)
	defer unix.Close(r)
	unix.Close(wr)
	for _, fd := range []int{r, 1 << 20} {
		dev := newEcho()
		dev.fd = fd
		g := newGuest(t, dev)
		g.start(0)
		w := g.work(t)
		// The first round, the one after poll has told, then one for each kick.
		for i := range int32(20) {
			testutil.Until(t, "a round", func() bool { return dev.served.Load() >= 2+i })
			w.idle()
			if n := dev.served.Load(); n != 2+i {
				t.Fatalf("descriptor %d: %d rounds after %d kicks; want %d", fd, n, i, 2+i)
			}
			signal(t, w.kick)
		}
		w.end()
		unix.Read(w.stop, make([]byte, 8))
	}
}

// TestWorkBadDoorbell: a doorbell that is no descriptor ends Work rather than
// keeping it busy.
func TestWorkBadDoorbell(t *testing.T) {
	testutil.Watchdog(t)
	newGuest(t, newEcho()).m.Work(1<<20, eventfd(t))
}

// TestRounds: what is more than a round's share waits for the next, in which
// nothing is lost, and the chains' sizes count.
func TestRounds(t *testing.T) {
	for _, c := range []struct {
		size   uint32 // of each chain
		chains int
		rounds int
	}{{16, 64, 1}, {64 << 10, 64, 4}, {1 << 19, 64, 32}, {512<<10 + 1, 5, 3}, {900 << 10, 3, 2},
		{16, 255, 1}, {16, 256, 1}, {16, 257, 2}, {16, 1024, 4}} {
		g := newGuest(t, &wide{})
		d := g.start(0)[0]
		for i := range c.chains {
			d.Desc(uint16(i), bufBase, c.size, descWrite, 0)
			d.Offer(uint16(i))
		}
		rounds := 0
		for timeout := 0; timeout == 0; rounds++ {
			timeout, _ = g.m.Serve()
		}
		n := 0
		for ; ; n++ {
			if _, _, ok := d.Done(); !ok {
				break
			}
		}
		if n != c.chains || rounds != c.rounds {
			t.Errorf("%d chains of %d bytes: %d done in %d rounds; want %d in %d", c.chains, c.size, n, rounds, c.chains, c.rounds)
		}
	}
}

// TestWorkRounds: one kick is enough for a queue that takes many rounds.
func TestWorkRounds(t *testing.T) {
	g := newGuest(t, &wide{})
	w := g.work(t)
	d := g.start(FeatureEventIdx)[0]
	w.idle()
	d.Desc(0, bufBase, 1, descWrite, 0)
	for range MaxQueueSize {
		d.Offer(0)
	}
	signal(t, w.kick)
	for range MaxQueueSize {
		d.waitUsed()
	}
	w.idle()
	if timeout, _ := g.m.Serve(); timeout != -1 {
		t.Error("Serve has more to do after all is done")
	}
}

// wide has a queue of the largest size.
type wide struct{ RNG }

func (d *wide) Info() Info { return Info{Type: 4, Queues: []uint16{MaxQueueSize}} }

// card is an echo that says it is a network card.
type card struct{ *echo }

func (d card) Info() Info {
	i := d.echo.Info()
	i.Type = typeNet
	return i
}

// TestWorkPolicy: a network card's thread takes no CPU from a vCPU, unless somebody
// chose another policy; its nice value stays, and other devices' threads do too.
func TestWorkPolicy(t *testing.T) {
	for _, c := range []struct {
		name       string
		dev        Device
		from, want uint32
		nice       int
	}{
		{"network card", card{newEcho()}, unix.SCHED_NORMAL, unix.SCHED_BATCH, 0},
		{"network card of a nice monitor", card{newEcho()}, unix.SCHED_NORMAL, unix.SCHED_BATCH, 3},
		{"network card of an idle monitor", card{newEcho()}, unix.SCHED_IDLE, unix.SCHED_IDLE, 0},
		{"another device", newEcho(), unix.SCHED_NORMAL, unix.SCHED_NORMAL, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			testutil.Watchdog(t)
			g := newGuest(t, c.dev)
			kick, stop := eventfd(t), eventfd(t)
			tid, done := make(chan int, 1), make(chan struct{})
			go func() {
				defer close(done)
				runtime.LockOSThread()
				a, err := unix.SchedGetAttr(0, 0)
				if err != nil {
					panic(err)
				}
				a.Policy, a.Nice = c.from, max(a.Nice, int32(c.nice))
				if err := unix.SchedSetAttr(0, a, 0); err != nil {
					t.Errorf("SchedSetAttr(%+v) = %v", a, err)
				}
				tid <- unix.Gettid()
				g.m.Work(kick, stop)
			}()
			id := <-tid
			testutil.UntilInSyscall(t, id, unix.SYS_POLL, unix.SYS_PPOLL)
			if a, err := unix.SchedGetAttr(id, 0); err != nil || a.Policy != c.want || a.Nice < int32(c.nice) {
				t.Errorf("policy of the worker's thread = %+v, %v; want policy %d, nice at least %d", a, err, c.want, c.nice)
			}
			signal(t, stop)
			<-done
		})
	}
}
