package hypercall

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// limits gives the rig's disk and first NIC a limit on a clock that stands still, one
// operation per second. debt is what they owe already.
func (r *rig) limits(debt uint64) (now *time.Time) {
	now = new(time.Time)
	clock := func() time.Time { return *now }
	for _, h := range []int{hNIC, hDisk} {
		for i := range r.Limits[h] {
			r.Limits[h][i] = devices.NewLimiter(devices.Limit{Ops: 1, Burst: 1}, clock)
			r.Limits[h][i].Wait()
			r.Limits[h][i].Take(0, debt)
		}
	}
	return now
}

// vcpu makes a call on a thread of its own.
func (r *rig) vcpu(c Call, gpa uint32) (tid int, done chan error) {
	tids, done := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tids <- unix.Gettid()
		done <- r.call(c, gpa)
	}()
	return <-tids, done
}

// TestLimitWaits: a guest waits for its disk and for its frames to go out, asleep, until
// the monitor wakes it; a signal does not. What it asked for is done then, and charged.
func TestLimitWaits(t *testing.T) {
	for _, c := range []struct {
		name string
		call Call
		args []uint64
		ret  uint64
		done func(r *rig) int
		at   [2]int // of Limits
	}{
		{"BLOCK_WRITE", BlockWrite, []uint64{hDisk, 0, buf, 512, dirty}, 32, func(r *rig) int { return r.disk.wrote }, [2]int{hDisk, 0}},
		{"BLOCK_READ", BlockRead, []uint64{hDisk, 0, buf, 512, dirty}, 32, func(r *rig) int { return r.disk.reads }, [2]int{hDisk, 1}},
		{"NET_WRITE", NetWrite, []uint64{hNIC, buf, 60, dirty}, 24, func(r *rig) int { return r.nic.writes }, [2]int{hNIC, 0}},
		{"BATCH", Batch, []uint64{batchAt, 3, dirty}, 16, func(r *rig) int { return r.disk.wrote + r.disk.reads + r.nic.writes - 2 }, [2]int{hDisk, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			testutil.Watchdog(t)
			r := newRig(t)
			now := r.limits(3600)
			r.put(dataAddr, c.args...)
			r.put(batchAt, hDisk, 0, buf, 512, 0, uint64(BlockRead), hNIC, buf, 512, 0, 0, uint64(NetWrite), hDisk, 512, buf, 512, 0, uint64(BlockWrite))
			tid, done := r.vcpu(c.call, dataAddr)
			for range 3 {
				testutil.UntilInSyscall(t, tid, unix.SYS_PPOLL)
				if err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG); err != nil {
					t.Fatal(err)
				}
			}
			testutil.UntilInSyscall(t, tid, unix.SYS_PPOLL)
			select {
			case err := <-done:
				t.Fatalf("%s = %v; want it to wait", c.name, err)
			default:
			}
			signal(t, r.wake)
			if err := testutil.Wait(t, done, c.name); err != nil || r.i32(dataAddr+c.ret) != resultOK || c.done(r) != 1 {
				t.Errorf("%s = %v, result %d, carried out %d times; want nil, 0, once", c.name, err, r.i32(dataAddr+c.ret), c.done(r))
			}
			if got, want := r.Limits[c.at[0]][c.at[1]].Wait(), 3601*time.Second-1; got != want {
				t.Errorf("the next call waits %v; want %v", got, want)
			}
			// When the debt is paid nothing waits.
			*now = now.Add(2 * time.Hour)
			unix.Read(r.WakeFD, make([]byte, 8))
			r.put(dataAddr, c.args...)
			if err := r.call(c.call, dataAddr); err != nil || r.i32(dataAddr+c.ret) != resultOK {
				t.Errorf("%s without a debt = %v, result %d; want nil, 0", c.name, err, r.i32(dataAddr+c.ret))
			}
		})
	}
}

// TestLimitCost: what a call costs; what the guest got wrong costs nothing.
func TestLimitCost(t *testing.T) {
	for _, c := range []struct {
		name   string
		call   Call
		args   []uint64
		handle int
		want   time.Duration // 1e9 bytes in a second
	}{
		{"read", BlockRead, []uint64{hDisk, 0, buf, 512, dirty}, hDisk, 512},
		{"write", BlockWrite, []uint64{hDisk, 0, buf, 4096, dirty}, hDisk, 4096},
		{"nothing", BlockWrite, []uint64{hDisk, 0, buf, 0, dirty}, hDisk, 0},
		{"read past the end", BlockRead, []uint64{hDisk, 4096, buf, 512, dirty}, hDisk, 0},
		{"frame out", NetWrite, []uint64{hNIC, buf, 1514, dirty}, hNIC, 1514},
		{"frame in, of its own length", NetRead, []uint64{hNIC, buf, 1514, dirty}, hNIC, 60},
	} {
		r := newRig(t)
		r.nic.in = make([]byte, 60)
		all := devices.NewLimiter(devices.Limit{Bytes: 1e9, Burst: 1}, func() time.Time { return time.Time{} })
		r.Limits[c.handle] = [2]*devices.Limiter{all, all}
		r.put(dataAddr, c.args...)
		if err := r.call(c.call, dataAddr); err != nil {
			t.Fatal(err)
		}
		if got := max(all.Wait()+1, 0); got != c.want {
			t.Errorf("%s: the next call waits %v; want %v", c.name, got, c.want)
		}
	}
}

// TestLimitRead: frames beyond the rate stay in the NIC. NET_READ says that there is none,
// and POLL that none is ready, so that the guest sleeps.
func TestLimitRead(t *testing.T) {
	testutil.Watchdog(t)
	r := newRig(t)
	now := r.limits(0)
	r.nic.in = make([]byte, 60)
	signal(t, r.ready)
	read := func(want int32, reads int) {
		t.Helper()
		r.put(dataAddr, hNIC, buf, 100, dirty)
		r.ok(NetRead, dataAddr, buf, 60, dataAddr+16, 8, dataAddr+24, 4)
		if got := r.i32(dataAddr + 24); got != want || r.nic.reads != reads {
			t.Errorf("NET_READ = %d, the NIC was read %d times; want %d, %d", got, r.nic.reads, want, reads)
		}
	}
	poll := func(timeout, want uint64, n int32) {
		t.Helper()
		r.put(dataAddr, timeout, 77, dirty)
		r.ok(Poll, dataAddr, dataAddr+8, 8, dataAddr+16, 4)
		if got := r.u64(dataAddr + 8); got != want || r.i32(dataAddr+16) != n {
			t.Errorf("POLL = %#x, %d; want %#x, %d", got, r.i32(dataAddr+16), want, n)
		}
	}
	poll(0, 1<<hNIC, 1)
	read(resultOK, 1)
	for range 2 {
		read(resultAgain, 1)
		poll(0, 0, 0)
		poll(5e6, 0, 0)
	}
	signal(t, r.rd63) // another one has no limit
	poll(forever, 1<<hNIC63, 1)
	unix.Read(r.nic63.fd, make([]byte, 8))
	*now = now.Add(time.Second)
	poll(forever, 1<<hNIC, 1)
	poll(0, 1<<hNIC, 1)
	read(resultOK, 2)
	read(resultAgain, 2)
	r.hostErrs()
}

// TestLimitPoll: POLL wakes up by itself when the next frame may be read, not before,
// with a longer time-out and with none. With a shorter one it ends in time.
func TestLimitPoll(t *testing.T) {
	testutil.Watchdog(t)
	const period = 30 * time.Millisecond
	for _, c := range []struct {
		timeout time.Duration
		ready   uint64
		least   time.Duration
	}{{1<<63 - 1, 1 << hNIC, period}, {time.Hour, 1 << hNIC, period}, {period / 3, 0, period / 3}} {
		r := newRig(t)
		l := devices.NewLimiter(devices.Limit{Bytes: 1e9, Burst: 1}, time.Now)
		r.Limits[hNIC][1] = l
		signal(t, r.ready)
		r.put(dataAddr, uint64(c.timeout), 77, dirty)
		start := time.Now()
		l.Wait()
		l.Take(uint64(period), 0)
		r.ok(Poll, dataAddr, dataAddr+8, 8, dataAddr+16, 4)
		if took := time.Since(start); r.u64(dataAddr+8) != c.ready || took < c.least {
			t.Errorf("POLL of %v = %#x after %v; want %#x, after %v at least", c.timeout, r.u64(dataAddr+8), took, c.ready, c.least)
		}
	}
	// The monitor wakes it, as without a limit.
	r := newRig(t)
	r.limits(3600)
	signal(t, r.ready)
	r.put(dataAddr, forever, 77, dirty)
	tid, done := r.vcpu(Poll, dataAddr)
	testutil.UntilInSyscall(t, tid, unix.SYS_PPOLL)
	signal(t, r.wake)
	if err := testutil.Wait(t, done, "POLL"); err != devices.ErrInterrupted || r.u64(dataAddr+8) != 77 {
		t.Errorf("POLL = %v, ready set %#x; want %v, and no result", err, r.u64(dataAddr+8), devices.ErrInterrupted)
	}
}

// TestLimitAllocs: calls under a limit do not allocate, whether they wait or not.
func TestLimitAllocs(t *testing.T) {
	r := newRig(t)
	r.nic.in = make([]byte, 60)
	for _, h := range []int{hNIC, hDisk} {
		l := devices.NewLimiter(devices.Limit{Ops: 20_000, Burst: 1}, time.Now)
		r.Limits[h] = [2]*devices.Limiter{l, l}
	}
	for _, c := range []struct {
		Call
		args []uint64
	}{{BlockWrite, []uint64{hDisk, 0, buf, 512, dirty}}, {NetWrite, []uint64{hNIC, buf, 60, dirty}}, {NetRead, []uint64{hNIC, buf, 60, dirty}}, {Poll, []uint64{1000, 0, dirty}}} {
		r.put(dataAddr, c.args...)
		if n := testing.AllocsPerRun(100, func() {
			if err := r.call(c.Call, dataAddr); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocates %v times; want 0", c.Call, n)
		}
	}
}
