// Command echo measures what a UDP echo, or with -icmp a ping, takes in guests that run side by side, by turns. It makes a
// network namespace with a TAP interface for each guest; they are gone when it ends.
//
//	echo [flags] 'LABEL: PROGRAM [ARG...]'...
//
// In the arguments TAP stands for the interface and ADDR for the guest's address with prefix, 10.0.0.2/24.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// peer is one guest and its figures.
type peer struct {
	Label string `json:"label"`
	cmd   *exec.Cmd
	netns *os.File
	// For each window, in the order of windows: microseconds of wall time, and of the monitor's processor time, per echo in
	// each round.
	Wall [][]float64 `json:"wall_us"`
	CPU  [][]float64 `json:"cpu_us"`
}

// windows are how many datagrams are under way at a time.
var windows = []int{1, 4, 32}

var icmp = flag.Bool("icmp", false, "ping instead of sending datagrams to port 7")

func main() {
	runtime.LockOSThread() // the network namespace is the thread's
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("n", 40, "`rounds`: each measures every guest once at every window")
	echoes := flag.Int("echoes", 300, "`datagrams` in a round")
	file := flag.String("json", "", "write all samples to `FILE`")
	flag.Parse()
	if flag.NArg() == 0 || *rounds < 1 || *echoes < 1 {
		return errors.New("need at least one guest as 'LABEL: PROGRAM ARG', one round and one datagram")
	}
	var peers []*peer
	defer func() {
		for _, p := range peers {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		}
	}()
	for _, arg := range flag.Args() {
		p, err := start(arg)
		if err != nil {
			return err
		}
		peers = append(peers, p)
	}
	for _, p := range peers { // what is sent before the guest is up is lost
		_, err := p.echo(1, 1, 200*time.Millisecond)
		for try := 0; err != nil && try < 50; try++ {
			_, err = p.echo(1, 1, 200*time.Millisecond)
		}
		if err != nil {
			return err
		}
	}
	for w, window := range windows {
		for range *rounds {
			for _, p := range peers {
				before := p.cpu()
				took, err := p.echo(*echoes, window, 5*time.Second)
				if err != nil {
					return err
				}
				p.Wall[w] = append(p.Wall[w], float64(took.Nanoseconds())/1e3/float64(*echoes))
				p.CPU[w] = append(p.CPU[w], (p.cpu()-before)/float64(*echoes))
			}
		}
	}
	print(peers)
	if *file == "" {
		return nil
	}
	b, err := json.MarshalIndent(map[string]any{"windows": windows, "guests": peers}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(*file, b, 0o644)
}

// start makes a namespace with an interface and starts the monitor there.
func start(arg string) (*peer, error) {
	label, line, ok := strings.Cut(arg, ": ")
	words := strings.Fields(line)
	if !ok || len(words) == 0 {
		return nil, fmt.Errorf("%q: want LABEL: PROGRAM [ARG...]", arg)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("network namespace: %w (run it as root)", err)
	}
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0); err != nil {
		return nil, err
	}
	for _, ip := range []string{"tuntap add echo0 mode tap", "link set echo0 addrgenmode none", "addr add 10.0.0.1/24 dev echo0", "link set echo0 up"} {
		if out, err := exec.Command("ip", strings.Fields(ip)...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %s: %w: %s", ip, err, out)
		}
	}
	for j := range words {
		words[j] = strings.NewReplacer("TAP", "echo0", "ADDR", "10.0.0.2/24").Replace(words[j])
	}
	p := &peer{Label: label, netns: netns, cmd: exec.Command(words[0], words[1:]...), Wall: make([][]float64, len(windows)), CPU: make([][]float64, len(windows))}
	p.cmd.Stderr = os.Stderr
	return p, p.cmd.Start()
}

// echo sends n datagrams, with up to window of them on the way, and waits for all of them, for each up to limit.
func (p *peer) echo(n, window int, limit time.Duration) (time.Duration, error) {
	if err := unix.Setns(int(p.netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return 0, err
	}
	protocol := 0
	if *icmp {
		protocol = unix.IPPROTO_ICMP
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, protocol)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	to := unix.SockaddrInet4{Port: 7, Addr: [4]byte{10, 0, 0, 2}}
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv), unix.Connect(fd, &to)); err != nil {
		return 0, err
	}
	buf, got := make([]byte, 18), make([]byte, 18) // the smallest Ethernet frame
	buf[0] = 8                                     // ICMP's echo request; the kernel fills in the rest of its header
	begin := time.Now()
	for sent, received := 0, 0; received < n; received++ {
		for ; sent < n && sent-received < window; sent++ {
			if _, err := unix.Write(fd, buf); err != nil {
				return 0, fmt.Errorf("%s: send: %w", p.Label, err)
			}
		}
		_, err := unix.Read(fd, got)
		for err == unix.EINTR { // a signal of the Go runtime's; with a time limit the kernel does not go on by itself
			_, err = unix.Read(fd, got)
		}
		if err != nil {
			return 0, fmt.Errorf("%s: echo %d of %d: %w", p.Label, received+1, n, err)
		}
	}
	return time.Since(begin), nil
}

// cpu is the processor time that the monitor has used, in microseconds (clock ticks of 10 ms).
func (p *peer) cpu() float64 {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) * 1e4
}

// print compares each guest with the first: the median of the rounds' ratios.
func print(peers []*peer) {
	for w, window := range windows {
		for _, p := range peers {
			ratio := make([]float64, len(p.Wall[w]))
			for i := range ratio {
				ratio[i] = peers[0].Wall[w][i] / p.Wall[w][i]
			}
			cpu := 0.0
			for _, c := range p.CPU[w] {
				cpu += c
			}
			fmt.Printf("window %2d  %-10s least %6.1f  median %6.1f us per echo, %6.1f of processor time; %5.2f times as fast as %s\n", window, p.Label,
				slices.Min(p.Wall[w]), median(p.Wall[w]), cpu/float64(len(ratio)), median(ratio), peers[0].Label)
		}
	}
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
