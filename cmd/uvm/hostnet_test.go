package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

// buildNet builds uvm-net, once for all tests, and returns its folder. TestMain removes it.
var buildNet = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "uvm-net-")
	if err != nil {
		return "", err
	}
	netDir = dir
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, netProgram), "../"+netProgram).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return dir, err
})

var netDir string

// requireNet begins a test that makes interfaces.
func requireNet(t *testing.T) {
	t.Helper()
	if labTSS() {
		t.Skip("internal/lab says why")
	}
	testutil.RequireRoot(t)
	testutil.RequireKVM(t)
}

// withNet is the command argv with uvm-net on PATH.
func withNet(t testing.TB, argv ...string) *exec.Cmd {
	t.Helper()
	dir, err := buildNet()
	if err != nil {
		t.Fatal(err)
	}
	cmd := program(t, argv...)
	cmd.Env = append(cmd.Env, "PATH="+dir+":"+os.Getenv("PATH"))
	return cmd
}

// ip runs the command of that name.
func ip(t testing.TB, line string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
	return string(out)
}

// wantInterfaces checks which interfaces there are besides lo.
func wantInterfaces(t testing.TB, want ...string) {
	t.Helper()
	var got []string
	for line := range strings.Lines(ip(t, "-br link")) {
		if name, _, _ := strings.Cut(strings.Fields(line)[0], "@"); name != "lo" {
			got = append(got, name)
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("interfaces = %q; want %q", got, want)
	}
}

func ping(t testing.TB, addr string) {
	t.Helper()
	if out, err := exec.Command("ping", "-c", "1", "-W", "20", addr).CombinedOutput(); err != nil {
		t.Errorf("ping %s: %v: %s", addr, err, out)
	}
}

// quit ends netecho.
func quit(t testing.TB, addr string) {
	t.Helper()
	if out, err := exec.Command("bash", "-c", "echo quit >/dev/udp/"+addr+"/7").CombinedOutput(); err != nil {
		t.Errorf("quit to %s: %v: %s", addr, err, out)
	}
}

// netecho is the sample guest, which answers pings at the address that it is given.
func netecho(t testing.TB) string {
	t.Helper()
	const file = "../../bin/guests/netecho.hvt"
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v (make guests)", err)
	}
	return file
}

// up waits until netecho says that it listens, and returns its line.
func (r *running) up() string {
	r.t.Helper()
	line, err := bufio.NewReader(r.out).ReadString('\n')
	if err != nil || !strings.Contains(line, " up,") {
		r.t.Fatalf("stdout = %q, %v, run = %+v; want a line of netecho's", line, err, r.wait())
	}
	return line
}

// TestNetAuto pings a guest that got its network from uvm. Nothing of it remains, whichever way uvm ends.
func TestNetAuto(t *testing.T) {
	requireNet(t)
	testutil.Watchdog(t)
	netNS(t)
	for _, tt := range []struct {
		name, net, addr, iface, stderr string
		end                            func(*running)
		want                           ended
	}{
		{"auto, the guest ends", "auto", "10.192.0.2", "uvm10-192-0", "guest: 10.192.0.2\n", func(r *running) { quit(r.t, "10.192.0.2") }, ended{}},
		{"auto, killed", "service=auto,mtu=1400", "10.192.0.2", "uvm10-192-0", "guest: 10.192.0.2\n", func(r *running) { r.kill(syscall.SIGKILL) }, ended{status: -1, signal: syscall.SIGKILL}},
		{"auto, stopped", "auto,ip=10.1.2.3/24,gw=10.1.2.9", "10.1.2.3", "uvm0", "guest: 10.1.2.3\n", func(r *running) { r.kill(syscall.SIGTERM) }, ended{status: 128 + 15}},
		{"by name", "tap7,ip=10.1.2.3/24,gw=10.1.2.9", "10.1.2.3", "tap7", "", func(r *running) { quit(r.t, "10.1.2.3") }, ended{}},
		{"deleted", "auto", "10.192.0.2", "uvm10-192-0", "guest: 10.192.0.2\n", func(r *running) { ip(r.t, "link del uvm10-192-0") }, ended{status: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netNS(t)
			r := follow(t, withNet(t, "uvm", "run", netecho(t), "-m", "4M", "--log-level", "error", "--net", tt.net))
			if line := r.up(); !strings.Contains(line, tt.addr+" up,") || strings.Contains(tt.net, "mtu=1400") != strings.Contains(line, "mtu 1400") {
				t.Errorf("the guest says %q; want the address %s, and the MTU", line, tt.addr)
			}
			wantInterfaces(t, tt.iface)
			ping(t, tt.addr)
			// What goes down and up again goes on.
			ip(t, "link set "+tt.iface+" down")
			ip(t, "link set "+tt.iface+" up")
			ping(t, tt.addr)
			tt.end(r)
			got := r.wait()
			if tt.name == "deleted" {
				got.stderr, _, _ = strings.Cut(got.stderr, "\n") // then the device's failure is logged
				got.stderr += "\n"
			}
			if tt.want.stderr = tt.stderr; got != tt.want {
				t.Errorf("run = %+v; want %+v", got, tt.want)
			}
			wantInterfaces(t)
			wantQuiet(t, run(t, withNet(t, "uvm", "net", "clean")), 0, "")
		})
	}
}

// TestNetAutoMany starts 50 at the same time, and kills them all.
func TestNetAutoMany(t *testing.T) {
	requireNet(t)
	netNS(t)
	const n = 50
	kernel := netecho(t)
	runs := make([]*running, n)
	for i := range runs {
		runs[i] = follow(t, withNet(t, "uvm", "run", kernel, "-m", "4M", "--net", "auto"))
	}
	told := map[string]bool{}
	for _, r := range runs {
		told[strings.Fields(r.up())[1]] = true
	}
	if len(told) != n {
		t.Errorf("%d guests have %d addresses: %v", n, len(told), told)
	}
	for _, addr := range []string{"10.192.0.2", "10.192.25.2", "10.192.49.2"} {
		ping(t, addr)
	}
	for _, r := range runs {
		r.kill(syscall.SIGKILL)
	}
	said := map[string]bool{}
	for _, r := range runs {
		said[r.wait().stderr] = true
	}
	if len(said) != n || !said["guest: 10.192.0.2\n"] {
		t.Errorf("%d runs said %v; want an address each", n, said)
	}
	wantInterfaces(t)
}

// TestNetStartFails leaves no interface where the start fails after one was made, or before.
func TestNetStartFails(t *testing.T) {
	requireNet(t)
	kernel := (&guest{devices: netDisk}).halt(0).native(t, loader.NativeSealed)
	old := (&guest{devices: oneNet}).halt(0).file(t)
	disk := image(t, 1000)
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   []string
	}{
		{"no kernel", []string{"/no/such", "--net", "auto"}, exitKernel, []string{"/no/such"}},
		{"bad kernel", []string{disk, "--net", "tap7"}, exitKernel, []string{"not an ELF file"}},
		{"bad disk", []string{kernel, "--net", "auto", "--disk", disk}, exitUsage, []string{"1000 bytes"}},
		{"no disk", []string{kernel, "--net", "tap7", "--disk", "/no/such"}, exitHost, []string{"/no/such"}},
		{"the second net", []string{kernel, "--net", "auto", "--net", "auto"}, exitUsage, []string{"one too many"}},
		{"bridge missing", []string{kernel, "--net", "auto,bridge=br9"}, exitHost, []string{`net "service"`, "there is no bridge br9"}},
		{"bridge down", []string{kernel, "--net", "tap7,bridge=br0"}, exitHost, []string{"ip link set br0 up"}},
		{"no bridge", []string{kernel, "--net", "auto,bridge=lo"}, exitHost, []string{"lo is not a bridge"}},
		{"namespace missing", []string{kernel, "--net", "auto,netns=uvm-no-such"}, exitHost, []string{"ip netns add uvm-no-such"}},
		{"MTU", []string{kernel, "--net", "auto,mtu=65535"}, exitUsage, []string{"65521"}},
		{"small MTU", []string{kernel, "--net", "auto,mtu=67"}, exitUsage, []string{"MTU of 67"}},
		{"name", []string{kernel, "--net", "a23456789012345678,netns=/proc/self/ns/net"}, exitUsage, []string{"1 to 15 characters"}},
		{"pattern", []string{kernel, "--net", "tap%d"}, exitUsage, []string{"not an interface name"}},
		{"not a TAP", []string{kernel, "--net", "br0,netns=/proc/self/ns/net", "--disk", image(t, 512)}, exitHost, []string{"br0 is not a TAP interface"}},
		{"not a TAP here", []string{kernel, "--net", "br0", "--disk", image(t, 512)}, exitHost, []string{"br0", "is down"}},
		{"no note", []string{old, "--net", "auto,ip=10.0.0.2/24,gw=10.0.0.1", "--disk", disk}, exitUsage, []string{"number 1 is one too many"}},
		{"address without a note", []string{old, "--net", "tap7,ip=10.0.0.2/24,gw=10.0.0.1"}, exitUsage, []string{"no note of uvm's own", "args=mirage"}},
		{"descriptor and bridge", []string{old, "--net", "fd:3,bridge=br0"}, exitUsage, []string{"fd:3", "bridge="}},
		{"no address for mirage", []string{old, "--net", "tap7,args=mirage"}, exitUsage, []string{"ip=ADDRESS/BITS"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := withNet(t, append([]string{"uvm", "run"}, tt.args...)...)
			wantLine(t, run(t, inside(t, cmd, "ip link add br0 type bridge")), tt.status, tt.want...)
		})
	}
}

// inside has cmd run in a network namespace of its own after a line of shell, and after it checks that there
// is nothing but what that line made.
func inside(t *testing.T, cmd *exec.Cmd, setup string) *exec.Cmd {
	t.Helper()
	script := setup + `
before=$(ip -o link | cut -d' ' -f2)
"$@"
status=$?
[ "$(ip -o link | cut -d' ' -f2)" = "$before" ] || echo "left: $(ip -br link)" >&2
exit $status`
	words := append([]string{"unshare", "-n", "bash", "-c", script, "bash", "bash", "-c", `exec -a uvm "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	out := exec.CommandContext(t.Context(), "unshare", words[1:]...)
	out.Env = cmd.Env
	return out
}

// TestNetUnprivileged names the capability and the way around it; an interface that root has made does without.
func TestNetUnprivileged(t *testing.T) {
	requireNet(t)
	kernel := netecho(t)
	drop := []string{"setpriv", "--inh-caps=-all", "--bounding-set=-all"}
	for _, tt := range []struct {
		net    string
		status int
		want   []string
	}{
		{"auto", exitHost, []string{"CAP_NET_ADMIN", "ip tuntap add tap1 mode tap user 0; ip addr add 10.192.1.1/30 dev tap1; ip link set tap1 up", "--net tap1,ip=10.192.1.2/30,gw=10.192.1.1"}},
		{"tap7", exitHost, []string{"CAP_NET_ADMIN", "ip tuntap add tap7 mode tap user 0; ip link set tap7 up"}},
		{"auto,netns=/proc/self/ns/net", exitHost, []string{"CAP_SYS_ADMIN"}},
		{"tap0,ip=10.192.0.2/30,gw=10.192.0.1", exitTimeout, []string{"--timeout"}},
	} {
		cmd := withNet(t, "uvm", "run", kernel, "--timeout", "200ms", "--net", tt.net)
		cmd = inside(t, cmd, "ip tuntap add tap0 mode tap user 0; ip addr add 10.192.0.1/30 dev tap0; ip link set tap0 up")
		// The privilege goes between the namespace and uvm.
		at := len(cmd.Args) - 1
		for ; cmd.Args[at] != "bash"; at-- {
		}
		cmd.Args = append(cmd.Args[:at:at], append(drop, cmd.Args[at:]...)...)
		got := run(t, cmd)
		got.stdout = ""
		wantLine(t, got, tt.status, tt.want...)
	}
}

// TestNetNamespace puts the interface into another namespace, where the guest is reached.
func TestNetNamespace(t *testing.T) {
	requireNet(t)
	netNS(t)
	name := fmt.Sprintf("uvm-test-%d", os.Getpid())
	ip(t, "netns add "+name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	ip(t, "-n "+name+" tuntap add tap0 mode tap")
	ip(t, "-n "+name+" addr add 10.3.0.1/24 dev tap0")
	ip(t, "-n "+name+" link set tap0 mtu 1300 up")
	for net, addr := range map[string]string{"auto": "10.192.0.2", "tap0,ip=10.3.0.2/24": "10.3.0.2"} {
		r := follow(t, withNet(t, "uvm", "run", netecho(t), "--net", net+",netns="+name))
		if line := r.up(); strings.HasPrefix(net, "tap0") && !strings.Contains(line, "mtu 1300") {
			t.Errorf("the guest says %q; want the MTU of the interface in the other namespace", line)
		}
		wantInterfaces(t)
		out, err := exec.Command("ip", "netns", "exec", name, "ping", "-c", "1", "-W", "20", addr).CombinedOutput()
		if err != nil {
			t.Errorf("ping in %s: %v: %s", name, err, out)
		}
		r.kill(syscall.SIGKILL)
		r.wait()
	}
	if got := ip(t, "-n "+name+" -br link"); strings.Contains(got, "uvm") || !strings.Contains(got, "tap0") {
		t.Errorf("in %s there is %s; want tap0 and nothing of uvm's", name, got)
	}
	wantQuiet(t, run(t, withNet(t, "uvm", "net", "clean", "--netns", name)), 0, "")
}

// TestNetPersistent has `uvm net clean` remove an interface that somebody kept from going.
func TestNetPersistent(t *testing.T) {
	requireNet(t)
	netNS(t)
	r := follow(t, withNet(t, "uvm", "run", netecho(t), "--net", "auto"))
	r.up()
	pidfd, err := unix.PidfdOpen(r.cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	kept := false
	for fd := 3; fd < 64 && !kept; fd++ {
		if own, err := unix.PidfdGetfd(pidfd, fd, 0); err == nil {
			kept = unix.IoctlSetInt(own, unix.TUNSETPERSIST, 1) == nil
			unix.Close(own)
		}
	}
	wantQuiet(t, run(t, withNet(t, "uvm", "net", "clean")), 0, "") // it is in use
	r.kill(syscall.SIGKILL)
	r.wait()
	wantInterfaces(t, "uvm10-192-0")
	wantQuiet(t, run(t, withNet(t, "uvm", "net", "clean")), 0, "uvm10-192-0\n")
	wantInterfaces(t)
	for _, args := range [][]string{{"uvm", "net"}, {"uvm", "net", "clear"}, {"uvm", "net", "clean", "clean"}} {
		wantLine(t, run(t, withNet(t, args...)), exitUsage, "uvm net clean")
	}
	wantLine(t, run(t, withNet(t, "uvm", "net", "clean", "--netns", "uvm-no-such")), exitHost, "there is no network namespace uvm-no-such")
}

// TestNetProgram has everything happen to uvm-net that can.
func TestNetProgram(t *testing.T) {
	kernel := withDevices(t, oneNet)
	for _, tt := range []struct {
		name, script string
		status       int
		want         string
	}{
		{"it is missing", "", exitHost, "uvm-net is neither beside uvm"},
		{"it fails", "echo uvm: why >&2; exit 125", exitUsage, "uvm: why"},
		{"it is killed", "kill -9 $$", exitSignal + 9, "ended by a signal: killed"},
		{"it answers nothing", "exit 0", exitHost, "no answer"},
		{"it answers nonsense", "echo x >&3", exitHost, "invalid character"},
		{"it sends no descriptor", `echo '[{"interface":"x"}]' >&3`, exitHost, "1 interfaces and 0 descriptors; want 1"},
	} {
		for _, net := range []string{"auto", "uvmnone0"} {
			dir := t.TempDir()
			if tt.script != "" {
				if err := os.WriteFile(filepath.Join(dir, netProgram), []byte("#!/bin/sh\n"+tt.script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := program(t, "uvm", "run", kernel, "--net", net)
			cmd.Env = append(cmd.Env, "PATH="+dir+":/usr/bin:/bin")
			t.Logf("%s, --net %s", tt.name, net)
			wantLine(t, run(t, cmd), tt.status, tt.want)
		}
	}
}

// TestNetWords has the sample guests' library read good and bad words from the monitor.
func TestNetWords(t *testing.T) {
	requireNet(t)
	netNS(t)
	tap := makeTap(t, "tap7")
	kernel := netecho(t)
	for words, want := range map[string]string{
		"uvm.net=service,10.1.2.3/24":                                    "10.1.2.3",
		"uvm.net=service,10.1.2.3/24,10.1.2.1":                           "10.1.2.3",
		"uvm.x uvm.net=servic,10.9.9.9/24 uvm.net=service,255.255.0.1/1": "255.255.0.1",
		"uvm.net=service,10.1.2.3/24 --ipv4=10.4.5.6/8":                  "10.4.5.6",
		"": "10.0.0.2",
		"uvm. uvm.net= uvm.net=service uvm.net=service, uvm.net=services,10.1.2.3/24": "10.0.0.2",
		"uvm.net=service,10.1.2.3/33":           "10.0.0.2",
		"uvm.net=service,10.1.2.256/24":         "10.0.0.2",
		"uvm.net=service,10.1.2.03/24":          "10.0.0.2",
		"uvm.net=service,10.1.2/24":             "10.0.0.2",
		"uvm.net=service,10.1.2.3/":             "10.0.0.2",
		"uvm.net=service,10.1.2.3/24,":          "10.0.0.2",
		"uvm.net=service,10.1.2.3/24,10.1.2.1x": "10.0.0.2",
		"uvm.net=service,4294967306.1.2.3/24":   "10.0.0.2",
	} {
		cmd := program(t, append([]string{"uvm", "run", kernel, "--net", "fd:3", "--"}, strings.Fields(words)...)...)
		cmd.ExtraFiles = []*os.File{tap}
		r := follow(t, cmd)
		if line := r.up(); !strings.HasPrefix(line, "netecho: "+want+" up,") {
			t.Errorf("netecho %s says %q; want the address %s", words, line, want)
		}
		r.kill(syscall.SIGKILL)
		r.wait()
	}
}
