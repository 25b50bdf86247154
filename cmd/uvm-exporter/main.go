// Command uvm-exporter serves the statistics of a host's VMs to Prometheus. docs/metrics.md describes it. It asks the
// VMs through their control sockets, and is a program of its own: what it links would cost every start of uvm.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/metrics"
)

// Exit statuses, as uvm's.
const (
	exitOK    = 0   // a signal ended it
	exitUsage = 125 // wrong usage
	exitHost  = 126 // the host cannot: the address is taken, there is no run directory
)

// defaultListen has a port that Prometheus' list of default ports gives to nobody. All of its range from 9100 to 9999
// are given.
const defaultListen = "127.0.0.1:10186"

const usage = `uvm-exporter serves the statistics of this host's VMs to Prometheus.

Usage: uvm-exporter [flags]

`

// Bounds of what clients can take.
const (
	headerTime  = 5 * time.Second // for a client to send its request
	answerTime  = 30 * time.Second
	idleTime    = 2 * time.Minute
	headerBytes = 16 << 10
	mostScrapes = 16 // at once; they share their answers
	stopTime    = 3 * time.Second
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	f := pflag.NewFlagSet("uvm-exporter", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	listen := f.String("listen", defaultListen, "`ADDRESS:PORT` to serve on; whoever reaches it can read everything")
	dirs := f.StringArray("run-dir", nil, "`FOLDER` of control sockets, as uvm run's; repeatable (default $UVM_RUN_DIR, /run/uvm for root, else $XDG_RUNTIME_DIR/uvm)")
	timeout := f.Duration("timeout", 5*time.Second, "time for all VMs to answer a scrape; less than Prometheus' scrape_timeout")
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Print(usage + f.FlagUsages())
		return exitOK
	case err != nil:
		return fail(exitUsage, "%v", err)
	case f.NArg() > 0:
		return fail(exitUsage, "unexpected argument %q", f.Arg(0))
	case *timeout <= 0:
		return fail(exitUsage, "--timeout %v: want a time above 0", *timeout)
	}
	if len(*dirs) == 0 {
		dir, err := control.DefaultDir()
		if err != nil {
			return fail(exitHost, "%v", err)
		}
		*dirs = []string{dir}
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return fail(exitHost, "--listen: %v", err)
	}
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM)
	fmt.Fprintf(os.Stderr, "uvm-exporter: VMs of %s on http://%s/metrics\n", strings.Join(*dirs, ", "), l.Addr())
	return serve(l, newHandler(&scraper{dirs: *dirs, bound: *timeout}), sigs)
}

// serve answers until a signal comes, and lets requests end that have begun.
func serve(l net.Listener, h http.Handler, sigs <-chan os.Signal) int {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, WriteTimeout: answerTime, IdleTimeout: idleTime, MaxHeaderBytes: headerBytes,
		ErrorLog: log.New(os.Stderr, "uvm-exporter: ", 0),
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return fail(exitHost, "%v", err)
	case <-sigs:
	}
	signal.Reset() // the second one ends it at once
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
	return exitOK
}

// newHandler is /metrics and /healthz.
func newHandler(s *scraper) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		metrics.NewCollector(s.samples),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog: log.New(os.Stderr, "uvm-exporter: ", 0), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: mostScrapes, CoalesceGather: true, // two servers that scrape ask each VM once
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

// fail prints one line on stderr and returns status.
func fail(status int, format string, args ...any) int {
	line := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	fmt.Fprintf(os.Stderr, "uvm-exporter: %s\n", line)
	return status
}
