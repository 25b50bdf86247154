package vmm

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// failingWriter fails every write with err.
type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

// TestConsole sends a guest's output to everything that Config.Console may be.
func TestConsole(t *testing.T) { bothRings(t, testConsole) }

func testConsole(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	text := strings.Repeat("uvm\n", 5000) // more than a pipe takes at once
	g.print("")
	g.print("hello, ")
	g.print(text)
	g.halt(0)
	want := "hello, " + text

	t.Run("nil", func(t *testing.T) { runGuest(t, &g, func(c *Config) { c.Console = nil }) })
	t.Run("buffer", func(t *testing.T) {
		if got := runGuest(t, &g, nil); string(got) != want {
			t.Errorf("output = %d bytes; want %d", len(got), len(want))
		}
	})
	t.Run("copy", func(t *testing.T) {
		var also, only bytes.Buffer
		if got := runGuest(t, &g, func(c *Config) { c.ConsoleCopy = &also }); string(got) != want || also.String() != want {
			t.Errorf("output = %d bytes, its copy %d; want %d", len(got), also.Len(), len(want))
		}
		runGuest(t, &g, func(c *Config) { c.Console, c.ConsoleCopy = nil, &only })
		if only.String() != want {
			t.Errorf("copy of no console = %d bytes; want %d", only.Len(), len(want))
		}
		runGuest(t, &g, func(c *Config) { c.ConsoleCopy = failingWriter{syscall.EIO} })
		var none bytes.Buffer
		runGuest(t, &g, func(c *Config) { c.Console, c.ConsoleCopy = failingWriter{syscall.EIO}, &none })
		if none.Len() != 0 {
			t.Errorf("copy of what nobody took = %q; want nothing", none.String())
		}
	})
	t.Run("file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "console")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		runGuest(t, &g, func(c *Config) { c.Console = f })
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("output = %d bytes, %v; want %d", len(got), err, len(want))
		}
		// The file stays the caller's: neither New nor Close shuts it.
		if _, err := f.WriteString("more"); err != nil {
			t.Errorf("write after the run = %v; want an open file", err)
		}
	})
	t.Run("pipe", func(t *testing.T) {
		testutil.Watchdog(t)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(r)
			got <- b
		}()
		runGuest(t, &g, func(c *Config) { c.Console = w })
		w.Close()
		if b := testutil.Wait(t, got, "reader"); string(b) != want {
			t.Errorf("output = %d bytes; want %d", len(b), len(want))
		}
	})
}

// TestConsoleReaderGone ends the guest as SIGPIPE would end a process, whether
// the console is a descriptor or a Writer.
func TestConsoleReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	for name, console := range map[string]io.Writer{"pipe": w, "writer": failingWriter{&os.PathError{Op: "write", Err: syscall.EPIPE}}} {
		t.Run(name, func(t *testing.T) {
			var g guest
			g.print("anybody?")
			g.spin()
			cfg := g.config()
			cfg.Console = console
			res, err := runVM(t, newVM(t, cfg))
			var e *hypercall.ConsoleError
			if !errors.As(err, &e) || !errors.Is(err, syscall.EPIPE) {
				t.Errorf("Run() = %+v, %v; want a *hypercall.ConsoleError of EPIPE", res, err)
			}
			var g2 *GuestError
			if errors.As(err, &g2) {
				t.Errorf("Run() = %v; want no *GuestError: the guest did nothing wrong", err)
			}
		})
	}
}

// TestConsoleFails lets the guest live where only its words are lost: PUTS has
// no result to tell it by.
func TestConsoleFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"errno", syscall.ENOSPC, "no space left on device"},
		{"wrapped", &os.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}, "no space left on device"},
		{"other", io.ErrClosedPipe, "input/output error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var g guest
			for range 5 {
				g.print("x")
			}
			g.halt(0)
			var log bytes.Buffer
			runGuest(t, &g, func(c *Config) {
				c.Console = failingWriter{tt.err}
				c.Log = slog.New(slog.NewTextHandler(&log, nil))
			})
			line := `level=ERROR msg="console write failed" error="` + tt.want + `" count=`
			wantLines(t, &log, []string{line + "1", line + "2", line + "4"})
		})
	}
}

// TestConsoleFull writes to a device that is full.
func TestConsoleFull(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var g guest
	g.print("x")
	g.halt(0)
	var log bytes.Buffer
	runGuest(t, &g, func(c *Config) {
		c.Console = f
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	wantLines(t, &log, []string{`level=ERROR msg="console write failed" error="no space left on device" count=1`})
}
