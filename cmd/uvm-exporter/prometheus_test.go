package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// envNoPrometheus skips what needs Prometheus' own programs, on hosts that cannot have them.
const envNoPrometheus = "UVM_TEST_NO_PROMETHEUS"

// tool is the path of prometheus or promtool.
func tool(t testing.TB, name string) string {
	t.Helper()
	if os.Getenv(envNoPrometheus) == "1" {
		t.Skip("skipped by " + envNoPrometheus + "=1; unset it and run scripts/setup.sh")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "uvm", "prometheus", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if path, err = exec.LookPath(name); err != nil {
		t.Fatalf("no %s: run scripts/setup.sh, which fetches it, or set %s=1 to skip", name, envNoPrometheus)
	}
	return path
}

// server is a Prometheus that runs.
type server struct{ url string }

// startPrometheus runs a Prometheus that scrapes an address every second, until the test ends.
func startPrometheus(t *testing.T, target string, flags ...string) *server {
	t.Helper()
	program := tool(t, "prometheus")
	for range 3 { // somebody else may take the port in between
		if s := tryPrometheus(t, program, target, flags); s != nil {
			return s
		}
	}
	t.Fatal("prometheus did not start three times")
	return nil
}

func tryPrometheus(t *testing.T, program, target string, flags []string) *server {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	yml := fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: uvm\n  static_configs: [{targets: [%q]}]\n", target)
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	addr := freeAddress(t)
	cmd := exec.Command(program, append([]string{
		"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + addr, "--log.level=warn",
	}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // the thread that starts it lives as long as the program
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { cmd.Wait(); close(gone) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-gone
		}
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("prometheus said:\n%s", text)
		}
	})
	s := &server{"http://" + addr}
	for start := time.Now(); time.Since(start) < hangs; time.Sleep(50 * time.Millisecond) {
		select {
		case <-gone:
			return nil
		default:
		}
		if status, _ := get(s.url + "/-/ready"); status == http.StatusOK {
			return s
		}
	}
	return nil
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(u string) (status int, body []byte) {
	c := http.Client{Timeout: 20 * time.Second}
	defer c.CloseIdleConnections()
	resp, err := c.Get(u)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, body
}

// point is one element of an instant vector.
type point struct {
	labels map[string]string
	value  float64
}

// query runs a PromQL expression at the present.
func (s *server) query(t *testing.T, expr string) []point {
	t.Helper()
	status, body := get(s.url + "/api/v1/query?query=" + url.QueryEscape(expr))
	var r struct {
		Status, Error string
		Data          struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &r); err != nil || r.Status != "success" {
		t.Fatalf("query %s: HTTP %d, %v: %s", expr, status, err, body)
	}
	var vector []struct {
		Metric map[string]string
		Value  [2]any // time, value
	}
	if r.Data.ResultType != "vector" {
		t.Fatalf("query %s is a %s; want a vector", expr, r.Data.ResultType)
	}
	if err := json.Unmarshal(r.Data.Result, &vector); err != nil {
		t.Fatal(err)
	}
	var points []point
	for _, v := range vector {
		text, _ := v.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("query %s: value %v", expr, v.Value)
		}
		points = append(points, point{v.Metric, value})
	}
	return points
}

// until runs an expression until ok likes what it gives.
func (s *server) until(t *testing.T, expr string, ok func([]point) bool) []point {
	t.Helper()
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		p := s.query(t, expr)
		if ok(p) {
			return p
		}
		if time.Since(start) > hangs {
			t.Fatalf("%s = %v; still not so after %v", expr, p, hangs)
		}
	}
}
