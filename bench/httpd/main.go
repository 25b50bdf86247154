// httpd measures the sample unikernel guests/httpd: requests per second by wrk,
// throughput by curl, and how often the guest had to leave to its monitor for
// it. Everything runs in a network namespace that ends with the program.
//
//	httpd [-d 5s] [-bytes N] [-json FILE] UVM HTTPD.hvt
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Figures is one measurement, raw.
type Figures struct {
	Name        string
	MTU         int
	Connections int     `json:",omitempty"`
	Requests    uint64  // that the guest answered
	Bytes       uint64  `json:",omitempty"` // of content, where that is measured
	Seconds     float64 // of wall time
	CPUSeconds  float64 // that uvm used, guest included
	Calls       Calls   // of the guest
}

// Calls is what the guest says under /stats: its hypercalls.
type Calls struct {
	Requests  uint64 `json:"requests"`
	Poll      uint64 `json:"poll"`
	Read      uint64 `json:"read"`
	ReadEmpty uint64 `json:"read_empty"`
	Write     uint64 `json:"write"`
}

func (c Calls) exits() uint64 { return c.Poll + c.Read + c.ReadEmpty + c.Write }

func (c Calls) since(b Calls) Calls {
	return Calls{c.Requests - b.Requests, c.Poll - b.Poll, c.Read - b.Read, c.ReadEmpty - b.ReadEmpty, c.Write - b.Write}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench/httpd: "+format+"\n", args...)
	os.Exit(1)
}

// output runs a command, whose failure ends the program.
func output(argv ...string) string {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		fail("%s: %v (sudo apt-get install %s)", strings.Join(argv, " "), err, argv[0])
	}
	return string(out)
}

const url = "http://10.0.0.2"

// server is the guest, in a namespace.
type server struct {
	cmd *exec.Cmd
	mtu int
}

// start gives this thread, and so its children, a namespace of its own and starts the
// guest there.
func start(mtu int, uvm, kernel string) *server {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		fail("a network namespace: %v (run as root)", err)
	}
	output("ip", "tuntap", "add", "tap0", "mode", "tap")
	output("ip", "addr", "add", "10.0.0.1/24", "dev", "tap0")
	output("ip", "link", "set", "tap0", "mtu", strconv.Itoa(mtu), "up")
	cmd := exec.Command(uvm, "run", kernel, "--net", "tap0", "--", "--ipv4=10.0.0.2/24")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} // of this thread, which lives as long as the program
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fail("%v", err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); !strings.Contains(line, "is up") {
		fail("the guest said %q, %v", line, err)
	}
	return &server{cmd, mtu}
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(unix.SIGTERM)
	_ = s.cmd.Wait()
}

func (s *server) calls() (c Calls) {
	if err := json.Unmarshal([]byte(output("curl", "-sS", url+"/stats")), &c); err != nil {
		fail("/stats: %v", err)
	}
	return c
}

// cpu is what uvm has used so far, in seconds.
func (s *server) cpu() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		fail("%v", err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100 // USER_HZ
}

// measure fills in what does not depend on the client.
func (s *server) measure(name string, client func(*Figures)) Figures {
	f := Figures{Name: name, MTU: s.mtu}
	calls, cpu, begin := s.calls(), s.cpu(), time.Now()
	client(&f)
	f.Seconds, f.CPUSeconds = time.Since(begin).Seconds(), s.cpu()-cpu
	f.Calls = s.calls().since(calls)
	f.Requests = f.Calls.Requests - 1 // that for /stats
	return f
}

var wrkErrors = regexp.MustCompile(`(?m)^\s*(Socket errors|Non-2xx).*$`)

func (s *server) wrk(connections int, d time.Duration) Figures {
	return s.measure("requests", func(f *Figures) {
		f.Connections = connections
		out := output("wrk", "-t1", "-c"+strconv.Itoa(connections), fmt.Sprintf("-d%ds", int(d.Seconds())), url+"/healthz")
		if e := wrkErrors.FindString(out); e != "" {
			fail("wrk: %s", e)
		}
	})
}

func (s *server) bytes(n uint64) Figures {
	return s.measure("bytes", func(f *Figures) {
		f.Bytes = n
		if got := output("curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", fmt.Sprint(url, "/bytes/", n)); got != fmt.Sprint(n) {
			fail("curl took %s bytes, want %d", got, n)
		}
	})
}

func main() {
	d := flag.Duration("d", 5*time.Second, "how long wrk runs, each time; whole seconds")
	n := flag.Uint64("bytes", 500_000_000, "what curl downloads")
	file := flag.String("json", "", "the raw figures go there")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	runtime.LockOSThread()
	var all []Figures
	for _, mtu := range []int{1500, 9000} {
		s := start(mtu, flag.Arg(0), flag.Arg(1))
		if mtu == 1500 {
			for _, c := range []int{1, 8, 64} {
				all = append(all, s.wrk(c, *d))
			}
		}
		all = append(all, s.bytes(*n))
		s.stop()
	}
	fmt.Printf("%-10s %5s %12s %12s %10s %10s %12s %12s\n", "", "MTU", "connections", "requests/s", "MB/s", "exits", "exits per", "CPU µs/exit")
	for _, f := range all {
		rate, per := "-", fmt.Sprintf("%.2f MB", float64(f.Calls.exits())/(float64(f.Bytes)/1e6))
		speed := fmt.Sprintf("%.1f", float64(f.Bytes)/1e6/f.Seconds)
		if f.Connections > 0 {
			rate, speed = fmt.Sprintf("%.0f", float64(f.Requests)/f.Seconds), "-"
			per = fmt.Sprintf("%.3f req.", float64(f.Calls.exits())/float64(f.Requests))
		}
		fmt.Printf("%-10s %5d %12d %12s %10s %10d %12s %12.1f\n", f.Name, f.MTU, f.Connections, rate, speed, f.Calls.exits(), per,
			f.CPUSeconds*1e6/float64(f.Calls.exits()))
	}
	if *file != "" {
		b, err := json.MarshalIndent(all, "", "  ")
		if err == nil {
			err = os.WriteFile(*file, append(b, '\n'), 0o644)
		}
		if err != nil {
			fail("%v", err)
		}
	}
}
