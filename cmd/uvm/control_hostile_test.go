package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// connect opens a connection that never waits; nil where there is no room for one.
func connect(t *testing.T, path string) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		if err != unix.EAGAIN {
			t.Fatalf("connect: %v", err)
		}
		return nil
	}
	return os.NewFile(uintptr(fd), path)
}

// TestHostileClients: while clients of all bad kinds hold a VM's socket, its guest runs, prints all that it has to, and
// ends, and nothing is left.
func TestHostileClients(t *testing.T) {
	dir := withRunDir(t)
	const lines = 3000
	g := new(guest).print("up\n")
	at := uint64(g.store([]byte(strings.Repeat("x", 99) + "\n")))
	for range lines {
		g.puts(at, 100)
	}
	r := follow(t, program(t, "uvm", "run", "--name", "web", g.halt(9).file(t)))
	r.expect("up\n")
	path := filepath.Join(dir, sockets(t, dir)[0])
	var clients []*os.File
	for _, request := range []string{
		`{"v":1,"op":"logs","args":{"follow":true}}` + "\n", // and never read
		`{"v":1,"op":"wait"}` + "\n",
		`{"v":1,"op":"stats"}` + "\n" + `{"v":1,"op":"info"}`, // and half of another
		strings.Repeat("x", 1<<20),
		`{"v":1,`,
		"",
	} {
		for range 30 {
			if c := connect(t, path); c != nil {
				clients = append(clients, c)
				go io.WriteString(c, request) // to no end where it is not read
			}
		}
	}
	if len(clients) < 32 {
		t.Errorf("%d clients are connected; want all that are served", len(clients))
	}
	r.expect(strings.Repeat(strings.Repeat("x", 99)+"\n", lines))
	if got := r.wait(); got.status != 9 || got.stderr != "" {
		t.Errorf("uvm run = %+v; want the guest's status", got)
	}
	if got := sockets(t, dir); len(got) != 0 {
		t.Errorf("the run directory has %q; want nothing", got)
	}
	for _, c := range clients {
		c.Close()
	}
}

// TestThreads: clients that wait take no thread each of the VM's process.
func TestThreads(t *testing.T) {
	dir := withRunDir(t)
	r := spinning(t, "--name", "web")
	defer func() { r.kill(syscall.SIGKILL); r.wait() }()
	threads := func() int {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", r.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(tasks)
	}
	path := filepath.Join(dir, sockets(t, dir)[0])
	ps(t) // once, so that there are the threads that any answer needs
	before := threads()
	for range 20 {
		c := connect(t, path)
		defer c.Close()
		io.WriteString(c, `{"v":1,"op":"wait"}`+"\n")
	}
	testutil.Until(t, "20 streams", func() bool {
		all := ps(t)
		return len(all) == 1 && all[0].Streams == 20
	})
	if got := threads(); got > before+5 {
		t.Errorf("%d threads with 20 clients that wait, %d before; want no thread for each", got, before)
	}
}
