#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the folder of lwIP's source: that of Debian's source package lwip, with Debian's patches, fetched if need be.
# apt checks it against the signed index. It is kept in ~/.cache/uvm/lwip, which may be removed at any time.
set -euo pipefail

package=lwip
cache=${XDG_CACHE_HOME:-$HOME/.cache}/uvm/lwip

say() { echo "httpd: $*" >&2; }
die() { say "$*"; exit 1; }

find_source() {
    local marker
    marker=$(find "$cache" -maxdepth 1 -name '*.complete' 2>/dev/null | sort -V | tail -n 1)
    [ -n "$marker" ] || return 1
    echo "${marker%.complete}"
}

# download fetches the newest source package into the current folder. A machine's list of sources has binary packages only, as
# a rule; so this takes the same archives, with package lists of its own.
download() {
    local uri suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    local options=(-qq -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Acquire::http::Timeout=30
        -o "Dir::Etc::sourcelist=$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$PWD/lists" -o "Dir::Cache=$PWD")
    mkdir -p lists/partial archives/partial
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' | sort -u >archives.txt
    [ -s archives.txt ] || echo 'http://deb.debian.org/debian/ bookworm' >archives.txt
    while read -r uri suite; do
        echo "deb-src [signed-by=$keyring] $uri $suite main"
    done <archives.txt >sources.list
    apt-get "${options[@]}" update && apt-get "${options[@]}" source --download-only $package
}

mkdir -p "$cache"
exec 8>"$cache/lock"
flock 8
if ! find_source; then
    for tool in apt-get tar xz patch; do
        command -v $tool >/dev/null || die "$tool is missing; lwIP comes from Debian's archive (source package $package), or copy a filled $cache here"
    done
    rm -rf "$cache"/tmp-* # of runs that were interrupted
    tmp=$(mktemp -d "$cache/tmp-XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    if ! (cd "$tmp" && download) >"$tmp/log" 2>&1; then
        die "cannot download Debian's source package $package ($(grep -m 1 'Failed to fetch' "$tmp/log" || grep -m 1 '^E:' "$tmp/log" || tail -n 1 "$tmp/log")): is the network there?"
    fi
    dsc=$(cd "$tmp" && echo ${package}_*.dsc)
    version=$(sed -n 's/^Version: //p' "$tmp/$dsc")
    mkdir "$tmp/source"
    tar -xf "$tmp/$package"_*.orig.tar.xz -C "$tmp/source" --strip-components=1
    tar -xf "$tmp/$package"_*.debian.tar.xz -C "$tmp/source"
    while read -r name _; do
        case $name in '' | '#'*) continue ;; esac
        patch -s -p1 -d "$tmp/source" <"$tmp/source/debian/patches/$name" || die "$package $version: Debian's patch $name does not fit"
    done <"$tmp/source/debian/patches/series"
    rm -rf "${cache:?}/$version"
    mv "$tmp/source" "$cache/$version"
    touch "$cache/$version.complete"
    say "$package $version is in $cache"
    find_source
fi
