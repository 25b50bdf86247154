// Command uvm-net makes the host's end of a guest's network. `uvm run` starts it where an interface has to be made, and
// `uvm net` becomes it: what it links would cost every start of uvm.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hostnet"
	"github.com/uvm-monitor/uvm/hostnet/wire"
)

// Exit statuses, as uvm's.
const (
	exitUsage = 125 // wrong usage
	exitHost  = 126 // the host lacks something or does not allow it
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	f := pflag.NewFlagSet("net", pflag.ContinueOnError)
	f.Usage = func() {}
	netns := f.String("netns", "", "the network namespace, a `NAME` of ip netns or a path (default: that of uvm)")
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Println("uvm executes this program; see uvm net --help.")
		return 0
	case err != nil:
		return fail(exitUsage, "%v", err)
	}
	switch words := f.Args(); {
	case len(words) == 1 && words[0] == "clean":
		return clean(*netns)
	case len(words) == 2 && words[0] == "open" && *netns == "":
		return open(words[1])
	default:
		return fail(exitUsage, "unknown command %q (usage: uvm net clean)", strings.Join(words, " "))
	}
}

func clean(netns string) int {
	removed, err := hostnet.Clean(netns)
	for _, name := range removed {
		fmt.Println(name)
	}
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	return 0
}

// open serves uvm: it opens the interfaces of a list of wire.Requests in JSON, and sends their descriptors to the socket
// that is descriptor 3. They are uvm's then, and nobody's if uvm has gone.
func open(list string) int {
	var requests []wire.Request
	if err := json.Unmarshal([]byte(list), &requests); err != nil {
		return fail(exitUsage, "open: %v", err)
	}
	if len(requests) > wire.MaxNets {
		return fail(exitUsage, "%d network interfaces; at most %d", len(requests), wire.MaxNets)
	}
	const sock = 3
	var replies []wire.Reply
	var fds []int
	for _, r := range requests {
		t, err := hostnet.Open(r, os.Getppid())
		var bad *hostnet.RequestError
		if errors.As(err, &bad) {
			return fail(exitUsage, "%v", err)
		} else if err != nil {
			return fail(exitHost, "%v", err)
		}
		defer t.File.Close() // not before it is sent
		replies, fds = append(replies, t.Reply), append(fds, int(t.File.Fd()))
	}
	if err := wire.Send(sock, replies, fds); err != nil && !errors.Is(err, unix.EPIPE) {
		return fail(exitHost, "open: descriptor %d: %v", sock, err)
	}
	return 0
}

// fail prints one line on stderr and returns status.
func fail(status int, format string, args ...any) int {
	line := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	fmt.Fprintf(os.Stderr, "uvm: %s\n", line)
	return status
}
