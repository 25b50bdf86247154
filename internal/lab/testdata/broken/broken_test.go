// Package broken holds tests that fail in every way that a test can. The lab's
// own tests run them inside, to see that each is a failure outside.
package broken

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestGood(t *testing.T) {
	t.Log("this one is good")
	t.Run("sub/test", func(t *testing.T) {})
}

func TestAssertion(t *testing.T) {
	t.Run("below", func(t *testing.T) { t.Error("got 1; want 2") })
	t.Run("beside", func(t *testing.T) {})
}

func TestParallel(t *testing.T) {
	for _, name := range []string{"a", "b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			time.Sleep(10 * time.Millisecond)
			if name == "b" {
				t.Error("b is broken")
			}
		})
	}
}

func TestSkip(t *testing.T) { t.Skip("no mood") }

func TestOutput(t *testing.T) {
	os.Stdout.WriteString("no newline at the end, " + strings.Repeat("long ", 20000))
}

func TestPanic(t *testing.T) {
	if os.Getenv("BROKEN") == "panic" {
		panic("on purpose")
	}
}

// TestExit ends the program with status 0, without package testing's knowledge.
func TestExit(t *testing.T) {
	if os.Getenv("BROKEN") == "exit" {
		os.Stdout.WriteString("PASS\n")
		unix.Exit(0)
	}
}

func TestHang(t *testing.T) {
	if os.Getenv("BROKEN") == "hang" {
		select {}
	}
}
