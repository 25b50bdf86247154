#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# ping.sh [-n ROUNDS] [-c PINGS] GUEST 'LABEL: PROGRAM run [FLAG...]'...
#
# What several ways to run a guest make of a ping flood. Each command runs the guest (guests/httpd, or any other that
# takes --ipv4 and answers pings) on a TAP in a network namespace of its own; GUEST and its --net are added. One round floods each of them once, in
# an order that changes; shown are the median times of PINGS pings and the medians of the rounds' ratios to the first command.
# Needs root and ping(8).
set -euo pipefail
rounds=20 pings=3000
while getopts n:c: o; do case $o in n) rounds=$OPTARG ;; c) pings=$OPTARG ;; *) exit 2 ;; esac; done
shift $((OPTIND - 1))
guest=$1
shift
ns=() pids=() labels=()
undo() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; for n in "${ns[@]}"; do ip netns del "$n" || true; done; }
trap undo EXIT
for command in "$@"; do
	n=uvm-ping-$$-${#ns[@]}
	ip netns add "$n"
	ns+=("$n") labels+=("${command%%: *}")
	ip -n "$n" tuntap add tap0 mode tap
	ip -n "$n" addr add 10.0.0.1/24 dev tap0
	ip -n "$n" link set tap0 up
	# shellcheck disable=SC2086
	ip netns exec "$n" ${command#*: } --net tap0 "$guest" -- --ipv4=10.0.0.2/24 >/dev/null &
	pids+=($!)
done
for n in "${ns[@]}"; do
	for _ in $(seq 50); do ip netns exec "$n" ping -q -c 1 -W 1 10.0.0.2 >/dev/null 2>&1 && continue 2; done
	echo "$n: the guest does not answer" >&2
	exit 1
done
for _ in $(seq "$rounds"); do
	for i in $(seq 0 $((${#ns[@]} - 1)) | shuf); do
		ms=$(ip netns exec "${ns[$i]}" ping -f -q -c "$pings" 10.0.0.2 | sed -n 's/.* 0% packet loss, time \([0-9]*\)ms/\1/p')
		[ -n "$ms" ] || { echo "${labels[$i]}: pings were lost" >&2; exit 1; }
		echo "$i ${labels[$i]} $ms"
	done
	echo
done | awk -v RS= '
	{ for (f = 1; f < NF; f += 3) { t[$f] = $(f + 2); label[$f] = $(f + 1) }
	  for (i in t) { all[i] = all[i] " " t[i]; ratio[i] = ratio[i] " " t[i] / t[0] } }
	function median(s,  a, n, i, j, x) { n = split(s, a, " ")
	  for (i = 2; i <= n; i++) { x = a[i] + 0; for (j = i - 1; j > 0 && a[j] + 0 > x; j--) a[j + 1] = a[j]; a[j + 1] = x }
	  return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2 }
	END { for (i = 0; i in label; i++) printf "%-12s %6d ms  %.3f\n", label[i], median(all[i]), median(ratio[i]) }'
