package lab

// faultPrologue is for guests with a shell on the console, in a network namespace. ask
// has the guest do something and waits until it has; reaches waits until the guest answers
// a ping; calm fails if uvm takes more than a quarter of the processor for a while, which
// a guest that idles does not.
const faultPrologue = `ip netns del faults 2>/dev/null || true
ip netns add faults
inside="ip netns exec faults" # no function: $! would be a shell
$inside ip tuntap add tap0 mode tap
$inside ip addr add 10.0.0.1/24 dev tap0
$inside ip link set tap0 up
rm -f in
mkfifo in
boot() { # WORDS OF UVM RUN
	$inside uvm run "$@" --net tap0 --cmdline 'quiet ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off' <in >out 2>err &
	vm=$!
	exec 3>in
	reaches
}
n=1000
ask() {
	n=$((n+1))
	echo "$1; echo done=\$(($n+1000))" >&3
	until grep -q "done=$((n+1000))" out; do kill -0 $vm; sleep 0.1; done
}
reaches() { until $inside ping -c 1 -W 1 10.0.0.2 >/dev/null; do kill -0 $vm; sleep 0.2; done; }
cpu() { set -- $(sed 's/.*) //' /proc/$vm/stat); echo $((${12} + ${13})); }
calm() { # WHAT COMMAND
	what=$1; shift
	sleep 0.5
	before=$(cpu)
	"$@"
	spent=$(($(cpu) - before))
	echo "$what: $spent ticks"
	[ $spent -lt 50 ]
}
`

// faultCases are what happens to a TAP and its guest; TestLinux runs them too.
var faultCases = []linuxCase{
	{
		name: "network faults", peer: true, init: "exec setsid cttyhack sh\n",
		script: faultPrologue + `boot $GENERAL $GUEST
ask true
fds=$(ls /proc/$vm/fd | wc -l)

# Frames of all lengths and kinds in both directions, while the TAP goes down and up.
$inside ./peer frames tap0 0 3000 >/dev/null &
flood=$!
ask 'peer frames eth0 0 3000 >/dev/null & true'
for i in 1 2 3 4 5; do
	$inside ip link set tap0 down
	sleep 0.2
	$inside ip link set tap0 up
	sleep 0.2
done
ask 'killall peer'
kill $flood
reaches
echo down and up
$inside ./peer frames tap0 400 1000
ask 'peer frames eth0 400 1000'
reaches
calm idle sleep 2

# A flood for a guest that does not read.
ask 'ip link set eth0 down'
calm 'not read' $inside timeout 2 ./peer frames tap0 0 0 || [ $spent -lt 50 ]
ask 'ip link set eth0 up'
reaches
echo reads again

# The interface goes away while the guest sends.
ask 'peer frames eth0 0 3000 >/dev/null & true'
$inside ip link del tap0
ask 'sleep 0.5; killall peer; echo lives on'
calm deleted sleep 2
[ $(ls /proc/$vm/fd | wc -l) -le $fds ]
[ $(wc -l <err) -lt 100 ]
echo 'reboot -f' >&3
wait $vm
ip netns del faults
cat out err`,
		want: []string{`down and up\nsent \d\d+ frames`, `idle: \d+ ticks`, `not read: \d+ ticks`, `reads again`, `deleted: \d+ ticks`, `lives on`},
	},
	{
		// Drivers give their devices up and take them again, under traffic; UVM_LAB_RESETS
		// is how often.
		name: "driver resets", peer: true, init: `cd /sys/bus/virtio/drivers
blk=$(basename virtio_blk/virtio*)
net=$(basename virtio_net/virtio*)
(while true; do dd if=/dev/vda of=/dev/null bs=64k; usleep 20000; done) 2>/dev/null &
(while true; do peer frames eth0 0 10000; usleep 20000; done) >/dev/null 2>&1 &
for i in $(seq $resets); do
	echo reset $i
	for d in virtio_blk/$blk virtio_net/$net; do
		echo ${d#*/} >${d%/*}/unbind
		echo ${d#*/} >${d%/*}/bind
	done
	ip link set eth0 up
done
echo resets done
killall peer dd
ip addr add 10.0.0.2/24 dev eth0
sha256sum /dev/vda
ping -c 3 -W 5 10.0.0.1
reboot -f
`,
		script: faultPrologue + `dd if=/dev/urandom of=data.raw bs=64k count=16 2>/dev/null
$inside ./peer frames tap0 0 10000 >/dev/null &
flood=$!
$inside uvm run $GENERAL $GUEST --disk data.raw --net tap0 --cmdline "quiet resets=$RESETS" </dev/null >out 2>err &
vm=$!
for i in $(seq 60); do grep -q 'resets done' out && break; sleep 1; done
kill $flood
grep -q 'resets done' out || { cat out err; kill $vm; exit 1; }
wait $vm
cat out err
[ -s err ] && exit 1
grep -q "^$(sha256sum <data.raw | cut -d' ' -f1)  /dev/vda" out && echo the disk is whole
ip netns del faults`,
		want: []string{`the disk is whole`, ` 0% packet loss`},
	},
}
