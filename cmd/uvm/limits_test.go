package main

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestLimitWords: what the words of --net and --disk mean to the library.
func TestLimitWords(t *testing.T) {
	none := devices.Limit{}
	for _, c := range []struct {
		words  string
		rx, tx devices.Limit
	}{
		{"", none, none},
		{",bps=1000", devices.Limit{Bytes: 1000}, devices.Limit{Bytes: 1000}},
		{",bps=10M,pps=5", devices.Limit{Bytes: 10 << 20, Ops: 5}, devices.Limit{Bytes: 10 << 20, Ops: 5}},
		{",bps=10M,rx-bps=1k", devices.Limit{Bytes: 1 << 10}, devices.Limit{Bytes: 10 << 20}},
		{",tx-pps=7,pps=9", devices.Limit{Ops: 9}, devices.Limit{Ops: 7}},
		{",rx-bps=2GiB,burst=1s", devices.Limit{Bytes: 2 << 30, Burst: time.Second}, none},
		{",tx-pps=2,burst=1s", none, devices.Limit{Ops: 2, Burst: time.Second}},
		{",burst=3s,rx-bps=1,tx-pps=2", devices.Limit{Bytes: 1, Burst: 3 * time.Second}, devices.Limit{Ops: 2, Burst: 3 * time.Second}},
		// For vmm.New to refuse.
		{",burst=1s", devices.Limit{Burst: time.Second}, devices.Limit{Burst: time.Second}},
	} {
		s := settings{Nets: netList{}}
		if err := s.Nets.Set("tap0" + c.words); err != nil {
			t.Fatal(err)
		}
		if n := s.vmConfig().Nets[0]; n.RxLimit != c.rx || n.TxLimit != c.tx {
			t.Errorf("--net tap0%s: limits %+v, %+v; want %+v, %+v", c.words, n.RxLimit, n.TxLimit, c.rx, c.tx)
		}
	}
	s := settings{}
	if err := s.Disks.Set("d,ro,bps=18446744073709551615,iops=18446744073709551615,burst=1h,block-size=512"); err != nil {
		t.Fatal(err)
	}
	want := devices.Limit{Bytes: math.MaxUint64, Ops: math.MaxUint64, Burst: time.Hour}
	if d := s.vmConfig().Disks[0]; d.Limit != want || !d.ReadOnly || d.BlockSize != 512 {
		t.Errorf("--disk: %+v; want the limit %+v", d, want)
	}
}

func TestBadLimitWords(t *testing.T) {
	values := func(key string, all ...string) (words []string) {
		for _, v := range all {
			words = append(words, key+v)
		}
		return words
	}
	size := []string{"", "=", "=0", "=0M", "=-1", "=1.5M", "=10MB/s", "=fast", "=18446744073709551616", "=17179869184G", "=1T"}
	number := []string{"", "=", "=0", "=-1", "=1.5", "=1K", "=many", "=18446744073709551616"}
	burst := values("burst", "", "=", "=0s", "=-1s", "=5", "=1M", "=3000000h")
	var words []string
	for _, key := range []string{"bps", "rx-bps", "tx-bps"} {
		words = append(words, values(key, size...)...)
	}
	for _, key := range []string{"pps", "rx-pps", "tx-pps"} {
		words = append(words, values(key, number...)...)
	}
	check := func(list interface{ Set(string) error }, w string) {
		key, _, _ := strings.Cut(w, "=")
		if err := list.Set("x," + w); err == nil || !strings.Contains(err.Error(), key) || !reflect.ValueOf(list).Elem().IsNil() {
			t.Errorf("%T.Set(%q) = %v and %v; want an error with the word, and no entry", list, w, err, list)
		}
	}
	for _, w := range append(append(words, burst...), "iops=5", "BPS=5") {
		check(new(netList), w)
	}
	for _, w := range append(append(values("bps", size...), values("iops", number...)...), append(burst, "pps=5", "rx-bps=5", "IOPS=5")...) {
		check(new(diskList), w)
	}
}

// TestBurstWithoutRate, and a burst of more than an hour, end as an error of usage.
func TestBurstWithoutRate(t *testing.T) {
	kernel := new(guest).halt(0).file(t)
	disk := writeFile(t, "disk", make([]byte, 512))
	for _, c := range [][2]string{{"--disk", disk + ",burst=1s"}, {"--disk", disk + ",bps=1M,burst=61m"}, {"--net", "lo,burst=1s"}, {"--net", "lo,tx-bps=1,burst=2h"}} {
		wantLine(t, uvm(t, "run", kernel, c[0], c[1]), exitUsage, c[0][2:]+" number 1", "burst from 0 to 1h, and none without a rate")
	}
}

// TestLimitedGuest reads 3 MiB, in 4,160 requests, at 2 MiB per second with 1 MiB saved
// up. A guest that waits for half a minute sleeps, and can be stopped.
func TestLimitedGuest(t *testing.T) {
	testutil.RequireKVM(t)
	guest := filepath.Join("..", "..", "bin", "guests", "blkspeed.hvt")
	if _, err := os.Stat(guest); err != nil {
		t.Fatalf("%v (make guests)", err)
	}
	disk := writeFile(t, "disk", make([]byte, 1<<20))
	start := time.Now()
	if r, took := uvm(t, "run", guest, "--disk", disk+",bps=2M,burst=500ms", "--", "1", "1"), time.Since(start); r.status != 0 || took < 990*time.Millisecond {
		t.Errorf("blkspeed = %+v after %v; want status 0, after a second at least", r, took)
	}
	cmd := program(t, "uvm", "run", guest, "--disk", disk+",bps=17,iops=1,burst=1ms", "--timeout", "1s")
	wantLine(t, run(t, cmd), exitTimeout, "--timeout")
	if used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); used > 750*time.Millisecond {
		t.Errorf("a second of waiting used %v of processor time; want next to nothing", used)
	}
}
