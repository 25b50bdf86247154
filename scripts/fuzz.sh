#!/bin/bash
# Runs every fuzz target of the tree for FUZZTIME each (default 5s).
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go} count=0 out=$(mktemp)
trap 'rm -f "$out"' EXIT

# fuzz PACKAGE TARGET: go test -fuzz now and then takes the end of its own time
# for a failure of the target and says no more than this.
# A failure of the target comes with its input or a stack.
fuzz() {
    local turn
    for turn in 1 2 3; do
        "$go" test -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-5s}" "$1" 2>&1 | tee "$out" && return
        [ "$(grep -A1 -e '^--- FAIL' "$out" | sed -n 2p | tr -d ' ')" = contextdeadlineexceeded ] || return 1
        echo "fuzz $1 $2: once more; the fuzzer missed its own deadline ($turn)"
    done
    return 1
}

while read -r pkg; do
    for target in $("$go" test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
        echo "fuzz $pkg $target"
        fuzz "$pkg" "$target"
        count=$((count + 1))
    done
done < <("$go" list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...)
[ "$count" -gt 0 ] || { echo "no fuzz targets found" >&2; exit 1; }
