#!/bin/bash
# Runs every fuzz target of the tree for FUZZTIME each (default 5s).
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go} count=0
while read -r pkg; do
    for target in $("$go" test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
        echo "fuzz $pkg $target"
        "$go" test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-5s}" "$pkg"
        count=$((count + 1))
    done
done < <("$go" list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...)
[ "$count" -gt 0 ] || { echo "no fuzz targets found" >&2; exit 1; }
