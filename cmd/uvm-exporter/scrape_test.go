package main

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/metrics"
)

// scrape is what /metrics says.
func scrape(t testing.TB, h http.Handler) string {
	t.Helper()
	w := record(h, "GET", "/metrics")
	if w.Code != http.StatusOK {
		t.Fatalf("GET /metrics = %d, %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// sample is the value of a time series, -1 if there is none.
func sample(text, series string) float64 {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return -1
	}
	v, _ := strconv.ParseFloat(m[1], 64)
	return v
}

const silentErrors = `uvm_scrape_errors_total{reason="silent"}`

func countUp(text string) (up, down int) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "uvm_vm_up{") {
			if strings.HasSuffix(line, " 1\n") {
				up++
			} else {
				down++
			}
		}
	}
	return up, down
}

// checkGoroutines fails the test if goroutines stay behind.
func checkGoroutines(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		testutil.Until(t, "goroutines of the test", func() bool { return runtime.NumGoroutine() <= before })
	})
}

// reply is a line as a server sends it.
func reply(result string) string { return `{"v":1,"ok":true,"result":` + result + "}\n" }

// talk answers the requests of a connection with these lines, and then waits for its end.
func talk(lines ...string) func(net.Conn) {
	return func(c net.Conn) {
		b := make([]byte, 4096)
		for _, l := range lines {
			if _, err := c.Read(b); err != nil {
				return
			}
			io.WriteString(c, l)
		}
		io.Copy(io.Discard, c)
	}
}

// endless sends the same for ever.
func endless(s string, pause time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, s); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

// TestHostile scrapes a run directory where most sockets are not what they seem. Two VMs are.
func TestHostile(t *testing.T) {
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	checkGoroutines(t)
	dir := runDir(t)
	good := func() string { return goodStats }
	one, two := fakeVM(t, dir, "one", good), fakeVM(t, dir, "", good) // they would remove the sockets of killed monitors
	stats := func(s string) []string { return []string{reply(goodInfo), reply(s)} }
	want := map[string]float64{}
	for _, tc := range []struct {
		name, reason string
		serve        func(net.Conn)
	}{
		{"deaf", "silent", talk()},
		{"half-deaf", "silent", talk(reply(goodInfo))},
		{"half", "silent", talk(`{"v":1,"ok":tr`)},
		{"trickle", "silent", endless(" ", 20*time.Millisecond)},
		{"closes", "gone", func(net.Conn) {}},
		{"closes-later", "gone", func(c net.Conn) { c.Read(make([]byte, 4096)) }},
		{"endless", "malformed", endless(strings.Repeat("[", 64<<10), 0)},
		{"garbage", "malformed", talk("\x00\xff\xfe garbage\n")},
		{"no-json", "malformed", talk("HTTP/1.1 200 OK\n")},
		{"version", "malformed", talk(`{"v":99,"ok":true,"result":{}}` + "\n")},
		{"refuses", "refused", talk(`{"v":1,"ok":false,"error":"no \u001b[31m"}` + "\n")},
		{"no-stats", "malformed", talk(stats(`null`)...)},
		{"nan", "malformed", talk(stats(`{"state":"running","vcpus":[{}],"memory_bytes":NaN}`)...)},
		{"negative", "malformed", talk(stats(strings.Replace(goodStats, "67108864", "-1", 1))...)},
		{"negative-time", "malformed", talk(stats(strings.Replace(goodStats, "2500000000", "-1", 1))...)},
		{"large", "malformed", talk(stats(strings.Replace(goodStats, "67108864", "1e999", 1))...)},
		{"many", "malformed", talk(stats(`{"state":"running","vcpus":[` + strings.Repeat("{},", 300000) + `{}]}`)...)},
		{"info", "malformed", talk(reply(`[1, 2]`))},
	} {
		rawVM(t, dir, tc.name, tc.serve)
		want[tc.reason]++
	}
	// Nobody accepts, and the queue is full: connect waits.
	full, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(full)
	addr := &unix.SockaddrUnix{Name: filepath.Join(dir, "0000000000aa.full.sock")}
	if err := unix.Bind(full, addr); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(full, 0); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", addr.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	want["silent"]++
	// Sockets of killed monitors, and files that are no sockets.
	stale, err := net.Listen("unix", filepath.Join(dir, "0000000000ab.stale.sock"))
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	for _, f := range []string{"0000000000ac.sock", "README", "0000000000ad.sock.sock"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "0000000000ae.fifo.sock"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "0000000000af.sock")); err != nil {
		t.Fatal(err)
	}
	want["gone"] += 5
	h := newHandler(&scraper{dirs: []string{dir, dir, filepath.Join(dir, "none")}, bound: 20 * time.Second})
	text := scrape(t, h)
	total, sum := 0.0, 0.0
	for reason, n := range want {
		total += n
		sum += sample(text, `uvm_scrape_errors_total{reason="`+reason+`"}`)
	}
	if sum != total {
		t.Errorf("%v errors; want %v", sum, total)
	}
	if gone := sample(scrape(t, h), `uvm_scrape_errors_total{reason="gone"}`); gone != want["gone"] {
		t.Errorf("errors by gone at the second scrape = %v; want %v as at the first", gone, want["gone"])
	}
	got := map[string]float64{}
	all, err := listDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		f := ask(t.Context(), e).Failure
		// Where the processor is needed elsewhere, one may not have its time.
		for range 10 {
			if f != metrics.Silent || slices.Contains([]string{"full", "deaf", "half-deaf", "half", "trickle"}, e.Name) {
				break
			}
			f = ask(t.Context(), e).Failure
		}
		got[string(f)]++
	}
	want[""] = 2
	if !maps.Equal(got, want) {
		t.Errorf("the VMs one by one = %v; want %v", got, want)
	}
	for name, id := range map[string]string{"one": one.Entry().ID, "": two.Entry().ID} {
		if got := sample(text, fmt.Sprintf("uvm_vm_up{name=%q,vm=%q}", name, id)); got != 1 {
			t.Errorf("uvm_vm_up of %q = %v; want 1", name, got)
		}
	}
	if up, down := countUp(text); up != 2 || float64(down) != total-want["gone"] {
		t.Errorf("%d VMs up, %d down; want 2, %v", up, down, total-want["gone"])
	}
	if strings.Contains(text, "\x1b") {
		t.Error("what a VM said is in the answer as it is")
	}
}

// TestMany scrapes 300 VMs, by several Prometheus servers at once, while half of the VMs end.
func TestMany(t *testing.T) {
	testutil.Watchdog(t)
	checkGoroutines(t)
	const n = 300
	dir := runDir(t)
	var asked atomic.Int64
	var ending []func()
	for i := range n {
		s := fakeVM(t, dir, fmt.Sprint("vm", i), func() string { asked.Add(1); return goodStats })
		if i%2 == 0 {
			ending = append(ending, s.Close)
		}
	}
	h := newHandler(&scraper{dirs: []string{dir}, bound: 20 * time.Second})
	text := scrape(t, h)
	silent := sample(text, silentErrors) // where the processor is needed elsewhere
	if up, down := countUp(text); up+int(silent) != n || down != int(silent) || asked.Load() > n {
		t.Errorf("%d VMs up, %d down, asked %d times; want %d, 0, %d", up, down, asked.Load(), n, n)
	}
	testutil.Until(t, "an answer of all", func() bool {
		text = scrape(t, h)
		up, _ := countUp(text)
		return up == n
	})
	if got := sample(text, `uvm_boot_phase_duration_seconds_count{phase="total"}`); got != n {
		t.Errorf("%v starts in the histogram; want %d", got, n)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				if w := record(h, "GET", "/metrics"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "uvm_scrape_vms") {
					t.Errorf("a scrape while VMs end = %d, %.200s", w.Code, w.Body)
				}
			}
		})
	}
	for _, end := range ending {
		wg.Go(end)
	}
	wg.Wait()
	testutil.Until(t, "half of the VMs", func() bool {
		text = scrape(t, h)
		up, down := countUp(text)
		return up == n/2 && down == 0
	})
	for _, reason := range []string{"malformed", "refused", "run_directory"} {
		if got := sample(text, `uvm_scrape_errors_total{reason="`+reason+`"}`); got != 0 {
			t.Errorf("errors by %q = %v; want 0", reason, got)
		}
	}
	if got := sample(text, `uvm_boot_phase_duration_seconds_count{phase="total"}`); got != n {
		t.Errorf("%v starts in the histogram after all scrapes; want %d", got, n)
	}
}

// TestStuckMajority has more VMs stuck than can be asked in one scrape: when all were asked once, the others come first.
func TestStuckMajority(t *testing.T) {
	testutil.Watchdog(t)
	checkGoroutines(t)
	dir := runDir(t)
	for i := range 2 * workers {
		rawVM(t, dir, fmt.Sprint("stuck", i), talk())
	}
	for i := range 10 {
		fakeVM(t, dir, fmt.Sprint("good", i), func() string { return goodStats })
	}
	h := newHandler(&scraper{dirs: []string{dir}, bound: vmTime})
	var text string
	for range 4 {
		text = scrape(t, h)
	}
	if up, down := countUp(text); up != 10 || down != 2*workers {
		t.Errorf("the fourth scrape has %d VMs up, %d down; want 10, %d", up, down, 2*workers)
	}
}

// TestRunDirectory has directories that cannot be used, and one that comes later.
func TestRunDirectory(t *testing.T) {
	dir := t.TempDir()
	open, file, later := dir+"/open", dir+"/file", dir+"/later"
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHandler(&scraper{dirs: []string{open, file, later}, bound: 20 * time.Second})
	for i, want := range []float64{0, 1} {
		text := scrape(t, h)
		if vms, errs := sample(text, "uvm_scrape_vms"), sample(text, `uvm_scrape_errors_total{reason="run_directory"}`); vms != want || errs != float64(2*(i+1)) {
			t.Errorf("scrape %d: %v VMs, %v errors; want %v, %d", i, vms, errs, want, 2*(i+1))
		}
		if err := os.Mkdir(later, 0o700); i == 0 && err != nil {
			t.Fatal(err)
		}
		fakeVM(t, later, fmt.Sprint("late", i), func() string { return goodStats })
	}
}
