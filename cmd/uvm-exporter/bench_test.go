package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// BenchmarkScrape measures what a scrape takes of uvm-exporter as it is shipped, with VMs that have a disk and a net. The
// sockets are those of this process.
func BenchmarkScrape(b *testing.B) {
	program := filepath.Join(b.TempDir(), "uvm-exporter")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v: %s", err, out)
	}
	for _, vms := range []int{1, 200} {
		b.Run(fmt.Sprintf("vms=%d", vms), func(b *testing.B) {
			dir := runDir(b)
			for range vms {
				fakeVM(b, dir, "", func() string { return goodStats })
			}
			cmd := exec.Command(program, "--listen", "127.0.0.1:0", "--run-dir", dir)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Signal(syscall.SIGTERM)
			line, _, err := bufio.NewReader(stderr).ReadLine()
			m := startLine.FindSubmatch(line)
			if m == nil {
				b.Fatalf("the exporter's first line is %q, %v", line, err)
			}
			scrape := func() string {
				status, body := get(string(m[1]) + "/metrics")
				if status != 200 {
					b.Fatalf("GET /metrics = %d, %s", status, body)
				}
				return string(body)
			}
			const rss, cpu = "process_resident_memory_bytes", "process_cpu_seconds_total"
			first := scrape()
			for b.Loop() {
				scrape()
			}
			last := scrape()
			series := 0
			for l := range strings.Lines(last) {
				if strings.HasPrefix(l, "uvm_") {
					series++
				}
			}
			b.ReportMetric((sample(last, cpu)-sample(first, cpu))*1e3/float64(b.N), "cpu-ms/scrape")
			b.ReportMetric(sample(last, rss)/(1<<20), "rss-MiB")
			b.ReportMetric(float64(series), "series")
			b.ReportMetric(float64(len(last))/1024, "KiB")
		})
	}
}
