package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/uvm-monitor/uvm/internal/control"
)

// runDir is an empty run directory.
func runDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir() + "/run"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// goodStats is what an hvt guest with a disk and a net says, some time after its start.
const goodStats = `{
	"state": "running", "memory_bytes": 67108864, "resident_bytes": 1048576, "process_cpu_ns": 2500000000,
	"vcpus": [{
		"cpu_ns": 2000000000, "in_kvm_ns": 1500000000, "handling_ns": 250000000, "exits": {"IO": 1010, "INTR": 3},
		"hypercalls": {"PUTS": {"count": 10, "time_ns": 1000000}, "BLOCK_READ": {"count": 1000, "time_ns": 240000000}},
		"traps": {"13": 7, "200": 1}
	}],
	"devices": [
		{"name": "data", "kind": "disk", "ops": {"read": {"count": 1000, "bytes": 512000, "errors": 0, "latency_log2_ns": [0,0,0,0,0,0,0,0,0,0,0,400,0,600]}, "write": {"count": 0, "bytes": 0, "errors": 0}}},
		{"name": "service", "kind": "net", "ops": {"rx": {"count": 5, "bytes": 300, "errors": 1}, "tx": {"count": 4, "bytes": 240, "errors": 0}}}
	],
	"boot_marks": [
		{"name": "exec", "at": "2026-11-01T10:00:00Z", "cpu_ns": 0}, {"name": "kvm-open", "at": "2026-11-01T10:00:00.001Z", "cpu_ns": 1},
		{"name": "kernel", "at": "2026-11-01T10:00:00.002Z", "cpu_ns": 1}, {"name": "first-entry", "at": "2026-11-01T10:00:00.004Z", "cpu_ns": 1},
		{"value": 65, "at": "2026-11-01T10:00:00.007Z", "cpu_ns": 1}
	]
}`

const goodInfo = `{"version": "0.1", "kernel": "/tmp/build/app.hvt", "state": "running"}`

// fakeVM is a control socket that answers as a VM.
func fakeVM(t testing.TB, dir, name string, stats func() string) *control.Server {
	t.Helper()
	d, err := control.OpenDir(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	id, err := control.NewID()
	if err != nil {
		t.Fatal(err)
	}
	s, err := control.Listen(d, id, name)
	if err != nil {
		t.Fatal(err)
	}
	s.Handle("info", func(*control.Call) (any, error) { return json.RawMessage(goodInfo), nil })
	s.Handle("stats", func(*control.Call) (any, error) { return json.RawMessage(stats()), nil })
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// rawVM is a socket in a run directory on which serve does what it likes with each connection.
func rawVM(t testing.TB, dir, name string, serve func(net.Conn)) {
	t.Helper()
	id, err := control.NewID()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, id+"."+name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// deafVM takes requests and never answers. The channel says that one came.
func deafVM(t testing.TB, dir string) <-chan struct{} {
	asked := make(chan struct{}, 100)
	rawVM(t, dir, "deaf", func(c net.Conn) {
		b := make([]byte, 1)
		if n, _ := c.Read(b); n > 0 {
			asked <- struct{}{}
		}
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	})
	return asked
}

func record(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}
