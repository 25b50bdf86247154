package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// asProgram in the environment makes the test binary be the program itself.
const asProgram = "UVM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		main()
	}
	status := m.Run()
	os.RemoveAll(uvmDir)
	os.Exit(status)
}

// hangs bounds every wait. Nothing is expected to take that long.
const hangs = 50 * time.Second

// program is the exporter with these words. The test's end kills it.
func program(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	// The race detector would wait a second at the end of every good run.
	cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	return cmd
}

var startLine = regexp.MustCompile(`on (http://[0-9.:]+)/metrics$`)

// running is an exporter that serves.
type running struct {
	cmd *exec.Cmd
	url string
}

// startExporter starts it on a free port and waits for its first line.
func startExporter(t testing.TB, args ...string) *running {
	t.Helper()
	cmd := program(t, append([]string{"--listen", "127.0.0.1:0"}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, rest := make(chan string, 1), make(chan []string, 1)
	go func() {
		s := bufio.NewScanner(stderr)
		s.Scan()
		first <- s.Text()
		var lines []string
		for s.Scan() {
			lines = append(lines, s.Text())
		}
		rest <- lines
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		lines := testutil.Wait(t, rest, "the exporter's end")
		cmd.Wait()
		if t.Failed() {
			t.Logf("the exporter said:\n%s", strings.Join(lines, "\n"))
		}
	})
	line := testutil.Wait(t, first, "the exporter's first line")
	m := startLine.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("the exporter's first line is %q", line)
	}
	return &running{cmd, m[1]}
}

func TestUsage(t *testing.T) {
	e := startExporter(t, "--run-dir", t.TempDir())
	taken := strings.TrimPrefix(e.url, "http://")
	for _, tc := range []struct {
		args   []string
		env    string
		status int
		want   string // in stdout and stderr
	}{
		{[]string{"--help"}, "", 0, "--listen ADDRESS:PORT"},
		{[]string{"--nonsense"}, "", 125, "unknown flag: --nonsense"},
		{[]string{"x"}, "", 125, `unexpected argument "x"`},
		{[]string{"--timeout", "0s"}, "", 125, "--timeout 0s"},
		{[]string{"--listen", taken, "--run-dir", "/x"}, "", 126, "address already in use"},
		{[]string{"--listen", "127.0.0.1:99999", "--run-dir", "/x"}, "", 126, "--listen"},
	} {
		cmd := program(t, tc.args...)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != tc.status || !strings.Contains(string(out), tc.want) {
			t.Errorf("uvm-exporter %q = %d, %q; want %d, %q", tc.args, got, out, tc.status, tc.want)
		}
		if n := strings.Count(string(out), "\n"); tc.status != 0 && n != 1 {
			t.Errorf("uvm-exporter %q printed %d lines; want 1:\n%s", tc.args, n, out)
		}
	}
}

func TestRoutes(t *testing.T) {
	h := newHandler(&scraper{dirs: []string{t.TempDir() + "/none"}, bound: time.Second})
	for _, tc := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/healthz", 200, "ok\n"},
		{"GET", "/metrics", 200, "\nuvm_scrape_vms 0\n"},
		{"HEAD", "/metrics", 200, ""},
		{"POST", "/metrics", 405, "Method Not Allowed"},
		{"GET", "/", 404, "not found"},
	} {
		w := record(h, tc.method, tc.path)
		if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) {
			t.Errorf("%s %s = %d, %q; want %d, %q", tc.method, tc.path, w.Code, w.Body, tc.status, tc.want)
		}
	}
}

// TestStop ends the program while somebody scrapes a VM that does not answer: the scrape ends as it should.
func TestStop(t *testing.T) {
	testutil.Watchdog(t)
	dir := runDir(t)
	asked := deafVM(t, dir)
	e := startExporter(t, "--run-dir", dir)
	type result struct {
		status int
		body   string
	}
	scraped := make(chan result, 1)
	go func() {
		status, body := get(e.url + "/metrics")
		scraped <- result{status, string(body)}
	}()
	testutil.Wait(t, asked, "the exporter's connection")
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r := testutil.Wait(t, scraped, "the scrape")
	if r.status != http.StatusOK || !strings.Contains(r.body, `uvm_scrape_errors_total{reason="silent"} 1`) {
		t.Errorf("the scrape during the stop = %d, %s", r.status, r.body)
	}
	testutil.Until(t, "the exporter's end", func() bool {
		_, err := http.Get(e.url + "/healthz")
		return err != nil
	})
	if err := e.cmd.Wait(); err != nil {
		t.Errorf("the exporter's end = %v; want status 0", err)
	}
}

var uvmDir string

// uvmProgram builds uvm, and what it starts for networks.
func uvmProgram(t *testing.T) string {
	t.Helper()
	if uvmDir == "" {
		dir, err := os.MkdirTemp("", "uvm-exporter-test-")
		if err != nil {
			t.Fatal(err)
		}
		uvmDir = dir
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", uvmDir+"/", "../uvm", "../uvm-net").CombinedOutput(); err != nil {
			t.Fatal(fmt.Errorf("go build: %w: %s", err, out))
		}
	}
	return uvmDir + "/uvm"
}
