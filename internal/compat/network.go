package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// networkSetup is what upstream's setup-tests.sh makes. IPv6 stays off: its
// own packets would reach the guest at times that differ from run to run.
var networkSetup = []string{
	"ip link set dev lo up",
	"ip tuntap add tap100 mode tap",
	"ip tuntap add tap101 mode tap",
	"ip tuntap add tap102 mode tap",
	"ip link set dev tap100 addrgenmode none",
	"ip link set dev tap101 addrgenmode none",
	"ip link set dev tap102 addrgenmode none",
	"ip addr add 10.0.0.1/24 dev tap100",
	"ip addr add 10.1.0.1/24 dev tap101",
	"ip link set dev tap100 up",
	"ip link set dev tap101 up",
	"ip link set dev tap102 up mtu 9000",
}

// makeNetwork fills the network namespace that the process has to itself.
func makeNetwork() error {
	for _, line := range networkSetup {
		w := strings.Fields(line)
		if out, err := exec.Command(w[0], w[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
