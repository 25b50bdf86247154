#!/bin/bash
# Builds uvm and a sample unikernel, runs it with a network, and pings it. The
# network is a TAP in a network namespace of its own, which is gone afterwards.
# Needs root for the namespace and the TAP; asks sudo for it.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
cd "$repo"
make --no-print-directory uvm guests
bin/uvm doctor

ns=uvm-demo-$$
console=$(mktemp)
inside() { as_root ip netns exec "$ns" "$@"; }
cleanup() {
    # The unikernel ends with this datagram, and uvm with the unikernel.
    if [ -n "${vm:-}" ] && kill -0 "$vm" 2>/dev/null; then
        inside bash -c 'echo quit >/dev/udp/10.0.0.2/7' 2>/dev/null || true
        timeout 5 tail --pid="$vm" -f /dev/null || as_root kill "$vm" 2>/dev/null || true
        wait "$vm" 2>/dev/null || true
    fi
    as_root ip netns del "$ns" 2>/dev/null || true
    rm -f "$console"
}
trap cleanup EXIT

as_root ip netns add "$ns"
inside ip tuntap add tap0 mode tap
inside ip addr add 10.0.0.1/24 dev tap0
inside ip link set tap0 up

echo
echo '$ uvm run bin/guests/netecho.hvt --net tap0 --boot-summary -- --ipv4=10.0.0.2/24 &'
inside bin/uvm run bin/guests/netecho.hvt --net tap0 --boot-summary -- --ipv4=10.0.0.2/24 > >(tee "$console") &
vm=$!
timeout 20 bash -c 'until grep -q " up," "$1"; do sleep 0.01; done' _ "$console" ||
    { echo "demo: the unikernel did not start" >&2; exit 1; }
echo '$ ping -c 3 10.0.0.2'
inside ping -c 3 -i 0.2 -W 2 10.0.0.2
echo '$ echo quit > /dev/udp/10.0.0.2/7'
inside bash -c 'echo quit >/dev/udp/10.0.0.2/7'
wait "$vm" && echo "the unikernel has ended with status 0"
vm=
