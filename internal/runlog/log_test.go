package runlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// record is one of a JSON log.
type record struct {
	Msg, Line string
	Count     int
}

// recorded returns what has been logged.
func recorded(t testing.TB, log []byte) (all []record) {
	t.Helper()
	for line := range bytes.Lines(log) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	l := NewLines(slog.New(slog.NewJSONHandler(&out, nil)), 1<<20, nil)
	for _, s := range []string{"one\n", "tw", "o\r\nthree\n\n", "\x1b[2J\xff\n", strings.Repeat("x", 2*mostLine+1), "\n", "rest"} {
		l.Write([]byte(s))
	}
	l.Close()
	want := []string{"one", "two", "three", "", "\x1b[2J\ufffd", strings.Repeat("x", mostLine), strings.Repeat("x", mostLine), "x", "rest"}
	got := recorded(t, out.Bytes())
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i].Line != want[i] || got[i].Msg != "console" {
			t.Fatalf("records = %v; want the lines %q", got, want)
		}
	}
}

// TestLinesRate: a flood becomes a bounded number of records, and says how many lines it had.
func TestLinesRate(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	const lines, rate = 100_000, 10_000
	l := NewLines(slog.New(slog.NewJSONHandler(lockedWriter{&mu, &out}, nil)), rate, nil)
	start := time.Now()
	for i := range lines {
		fmt.Fprintf(l, "line %d\n", i)
	}
	l.Close()
	windows := int(time.Since(start)/time.Second) + 2
	logged, told := 0, 0
	for _, r := range recorded(t, out.Bytes()) {
		if r.Count > 0 {
			told += r.Count
		} else {
			logged++
		}
	}
	if logged+told != lines || logged > windows*rate/64 || logged == 0 {
		t.Errorf("%d lines logged, %d told as suppressed; want %d together, and at most %d logged", logged, told, lines, windows*rate/64)
	}
	// It is told without another line, too.
	l.Write([]byte(strings.Repeat("x\n", lines)))
	testutil.Until(t, "the suppressed lines to be told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		all := recorded(t, out.Bytes())
		return all[len(all)-1].Count > 0
	})
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(b)
}

// TestAsync: a log that nobody reads holds up neither the guest nor the monitor.
func TestAsync(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a := NewAsync(w)
	l := NewLines(slog.New(slog.NewTextHandler(a, nil)), 1<<30, a.Full)
	for range 10_000 {
		l.Write([]byte(strings.Repeat("x", 200) + "\n"))
	}
	for range queued { // the monitor's own
		a.Write([]byte("x\n"))
	}
	if lost, done := a.Close(10 * time.Millisecond); lost == 0 || done {
		t.Error("nothing was lost; want records to be counted that nobody took")
	}
	a.Write([]byte("late"))
	w.Close()
	var out bytes.Buffer
	b := NewAsync(&out)
	b.Write([]byte("one "))
	b.Write([]byte("two"))
	if lost, done := b.Close(time.Minute); lost != 0 || !done || out.String() != "one two" {
		t.Errorf("the log has %q, %d lost; want one two", out.String(), lost)
	}
}

func TestFile(t *testing.T) {
	testutil.CheckFDs(t)
	path := filepath.Join(t.TempDir(), "log")
	os.WriteFile(path, []byte("before\n"), 0o600)
	f, made, err := OpenFile(path, 100)
	if err != nil || made {
		t.Fatalf("OpenFile = %t, %v; want the file that is there", made, err)
	}
	line := strings.Repeat("x", 29) + "\n"
	for range 7 {
		if _, err := f.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if lost, err := f.Close(); lost != 0 || err != nil {
		t.Errorf("Close = %d, %v; want nothing lost", lost, err)
	}
	now, _ := os.ReadFile(path)
	old, _ := os.ReadFile(path + ".1")
	if string(now) != line || string(old) != line+line+line {
		t.Errorf("the files have %q and %q; want the last line, and the three before", now, old)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("Stat = %v, %v; want mode 0600", info.Mode(), err)
	}
}

// TestFileFails: a file that cannot be written counts what it loses, and goes on when it can.
func TestFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	f, made, err := OpenFile(path, 10)
	if err != nil || !made {
		t.Fatalf("OpenFile = %t, %v; want a new file", made, err)
	}
	os.Mkdir(path+".1", 0o700)
	os.WriteFile(filepath.Join(path+".1", "x"), nil, 0o600) // nothing can take its place
	f.Write([]byte("12345678"))
	for range 3 {
		if _, err := f.Write([]byte("abc")); err == nil {
			t.Error("Write succeeded; want it to fail where the file cannot be renamed")
		}
	}
	os.RemoveAll(path + ".1")
	if _, err := f.Write([]byte("abc")); err != nil {
		t.Errorf("Write = %v; want it to go on", err)
	}
	if lost, err := f.Close(); lost != 3 || err == nil {
		t.Errorf("Close = %d, %v; want 3 records lost, and why", lost, err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir, filepath.Join(dir, "none", "log"), os.DevNull} {
		if _, _, err := OpenFile(path, 10); err == nil {
			t.Errorf("OpenFile(%s) succeeded; want an error", path)
		}
	}
}
