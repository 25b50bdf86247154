#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# imports.sh [-n ROUNDS] PACKAGE[@VERSION]... : what importing each package costs a Go program at its start: an empty
# program against the same one with a blank import. That is a lower bound: code that nothing calls is not linked. Packages
# outside the standard library come through the module proxy.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
rounds=200
if [ "${1:-}" = -n ]; then
	rounds=$2
	shift 2
fi
[ $# -gt 0 ] || { echo "usage: imports.sh [-n ROUNDS] PACKAGE[@VERSION]..." >&2; exit 2; }

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
go mod init imports 2>/dev/null
export CGO_ENABLED=0
build() { go build -trimpath -ldflags "-s -w" -o "$dir/$1" "$dir/$1.go"; }

printf 'package main\n\nfunc main() {}\n' >empty.go
build empty
set -- "$@" ''	# marks the end of the packages; commands for pairs follow
while pkg=$1 && shift && [ -n "$pkg" ]; do
	path=${pkg%@*}
	name=$(echo "$path" | tr -c 'a-zA-Z0-9\n' _)
	case $path in
	*.*/*) go get "$pkg" 2>/dev/null || { echo "imports.sh: cannot get $pkg (no network, or no such version)" >&2; exit 1; } ;;
	esac
	printf 'package main\n\nimport _ "%s"\n\nfunc main() {}\n' "$path" >"$name.go"
	build "$name"
	set -- "$@" "$path: $dir/$name"
done
cd "$top"
go run ./bench/pairs -n "$rounds" "empty: $dir/empty" "$@"
