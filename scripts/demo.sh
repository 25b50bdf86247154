#!/bin/bash
# Builds uvm and a sample unikernel, an HTTP server, runs it with a network that
# uvm makes, and asks it for its page. All that is in a network namespace of its
# own, which is gone afterwards. Needs root for the namespace and the TAP; asks
# sudo for it.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
cd "$repo"
make --no-print-directory uvm guests
bin/uvm doctor

ns=uvm-demo-$$
log=$(mktemp)
inside() { as_root ip netns exec "$ns" "$@"; }
stop() {
    [ -n "${vm:-}" ] || return 0
    as_root kill "$vm" 2>/dev/null || true
    wait "$vm" 2>/dev/null || true
    vm=
}
cleanup() {
    stop
    as_root ip netns del "$ns" 2>/dev/null || true
    rm -f "$log"
}
trap cleanup EXIT

as_root ip netns add "$ns"
echo
echo '$ uvm run bin/guests/httpd.hvt --net auto --boot-summary &'
# No function: $! is the process, and not a shell that waits for it.
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
"${sudo[@]}" ip netns exec "$ns" bin/uvm run bin/guests/httpd.hvt --net auto --boot-summary > >(tee -a "$log") 2> >(tee -a "$log" >&2) &
vm=$!
timeout 20 bash -c 'until grep -q "is up" "$1" && grep -q "^guest:" "$1"; do sleep 0.01; done' _ "$log" ||
    { echo "demo: the unikernel did not start" >&2; exit 1; }
url=$(sed -n 's/^guest: .* \(http:.*\)/\1/p' "$log")
echo "\$ curl $url"
inside curl -sS --max-time 10 "$url"
stop
echo "the unikernel has ended, and its network with it: $(inside ip -br link show | grep -c uvm || true) interfaces are left"
