#!/bin/bash
# Installs what building and testing uvm needs and is not there yet: packages
# by apt, and Go where it is absent or too old. Sourced by demo.sh and test.sh,
# because it puts that Go on PATH; it can be run alone as well.
set -euo pipefail

go_version=1.26.8
# The module checksum of that toolchain; the checksum database has the same.
go_sum=h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=
go_home=${XDG_CACHE_HOME:-$HOME/.cache}/uvm/go$go_version

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# install_packages COMMAND=PACKAGE…: installs the packages whose command (or
# file, if it begins with /) is missing.
install_packages() {
    local pair what missing=()
    for pair; do
        what=${pair%%=*}
        case $what in
        /*) [ -e "$what" ] || missing+=("${pair#*=}") ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$what" >/dev/null || missing+=("${pair#*=}") ;;
        esac
    done
    [ ${#missing[@]} = 0 ] && return
    echo "setup: installing ${missing[*]}" >&2
    command -v apt-get >/dev/null || { echo "setup: no apt-get here; install the equivalents of: ${missing[*]}" >&2; return 1; }
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# fetch_prometheus puts prometheus and promtool into the cache, for the tests of uvm-exporter. Debian's package
# would start a server that anybody can reach, so it is not installed: only its two programs are taken out of it.
fetch_prometheus() {
    local dir=${XDG_CACHE_HOME:-$HOME/.cache}/uvm/prometheus tmp turn
    [ -x "$dir/prometheus" ] && [ -x "$dir/promtool" ] && return
    command -v prometheus >/dev/null && command -v promtool >/dev/null && return
    echo "setup: fetching prometheus into $dir" >&2
    command -v apt-get >/dev/null || { echo "setup: no apt-get here; install prometheus and promtool" >&2; return 1; }
    tmp=$(mktemp -d)
    for turn in 1 2; do # the package lists may be missing, or too old
        (cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 download prometheus) && break
        [ $turn = 1 ] && as_root apt-get update -qq
    done
    # apt has checked the package against Debian's signed index.
    mkdir -p "$tmp/x" "$dir"
    dpkg-deb --extract "$tmp"/prometheus_*.deb "$tmp/x" && mv "$tmp"/x/usr/bin/{prometheus,promtool} "$dir/" ||
        { rm -rf "$tmp"; return 1; }
    rm -rf "$tmp"
}

# go_is_new_enough GO: is that command there, and at least of our version's line?
go_is_new_enough() {
    local v
    v=$(cd "$repo" && GOFLAGS= "$1" env GOVERSION 2>/dev/null) || return 1
    v=${v#go}
    [ "$(printf '%s\n' "${go_version%.*}" "$v" | sort -V | head -n 1)" = "${go_version%.*}" ]
}

# install_go fetches the toolchain as the Go module that it is published as,
# with whatever older Go Debian has, and checks its sum.
install_go() {
    local old tmp info
    echo "setup: installing Go $go_version into $go_home" >&2
    old=$(command -v go || true)
    if [ -z "$old" ]; then
        install_packages go=golang-go /etc/ssl/certs/ca-certificates.crt=ca-certificates
        old=$(command -v go)
    fi
    tmp=$(mktemp -d)
    info=$(cd "$tmp" && GOPATH=$tmp/path GOFLAGS=-modcacherw GOTOOLCHAIN=local GO111MODULE=on \
        "$old" mod download -json "golang.org/toolchain@v0.0.1-go$go_version.linux-amd64") ||
        { echo "setup: cannot download Go $go_version: $info" >&2; rm -rf "$tmp"; return 1; }
    if ! grep -qF "\"Sum\": \"$go_sum\"" <<<"$info"; then
        echo "setup: the download of Go $go_version has another checksum than $go_sum:" >&2
        echo "$info" >&2
        rm -rf "$tmp"
        return 1
    fi
    # Module archives carry no execute bits.
    chmod -R u+w "$tmp/path"
    find "$tmp"/path/pkg/mod/golang.org/toolchain@*/{bin,pkg/tool} -type f -exec chmod +x {} +
    mkdir -p "$(dirname "$go_home")"
    rm -rf "$go_home"
    mv "$tmp"/path/pkg/mod/golang.org/toolchain@* "$go_home"
    rm -rf "$tmp"
}

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ "$(uname -m)" = x86_64 ] || { echo "setup: uvm runs on x86-64 only, this is $(uname -m)" >&2; exit 1; }
install_packages make=make gcc=gcc /usr/include/stdio.h=libc6-dev /usr/include/linux/kvm.h=linux-libc-dev ip=iproute2 ping=iputils-ping mke2fs=e2fsprogs curl=curl patch=patch xz=xz-utils
# Tests debug guests with the real gdb (docs/debugging.md).
[ "${0##*/}" = demo.sh ] || install_packages gdb=gdb readelf=binutils
# The lab (docs/testing.md), which the demo does not need; it fetches its kernel itself. A busybox alone may be the dynamic one.
# The second line is for the kernels of the guests that it runs (docs/lupine.md).
if [ "${0##*/}" != demo.sh ] && [ "${UVM_TEST_NO_LAB:-}" != 1 ]; then
    install_packages qemu-system-x86_64=qemu-system-x86 /usr/share/doc/busybox-static=busybox-static \
        flex=flex bison=bison bc=bc /usr/include/libelf.h=libelf-dev strace=strace dmsetup=dmsetup
fi
if [ "${0##*/}" != demo.sh ] && [ "${UVM_TEST_NO_PROMETHEUS:-}" != 1 ]; then
    fetch_prometheus
fi
if ! go_is_new_enough go; then
    go_is_new_enough "$go_home/bin/go" || install_go
    export PATH=$go_home/bin:$PATH GOROOT=$go_home GOTOOLCHAIN=local
fi
