#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds Linux kernels from Debian's linux-source-6.1 and the configuration fragments beside this script.
#
#   build.sh [-o DIR] NAME…   build and put NAME.vmlinux into DIR (bin/guests of the repository); then a table of sizes
#   build.sh --source         fetch the source only, and print where it lies
#
# A NAME is a fragment, or several joined by +: lupine-base, lupine-tiny+smp. A fragment's first lines may say
# `# on: PARENT…`, which are merged before it: other fragments, or allnoconfig or alldefconfig, which tell what an option
# has that no fragment names; and `# patch: FILE…`, which change the source. An option that a fragment asks for and the
# kernel's configuration then lacks is an error.
#
# Sources and results are kept in ~/.cache/uvm/linux-source and ~/.cache/uvm/lupine, the results by a hash of what makes them
# (function build below, fragments, patches, versions); either may be removed at any time. JOBS is the number of compilers at a time (all processors).
set -euo pipefail

package=linux-source-6.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/uvm
jobs=${JOBS:-$(nproc)}

say() { echo "lupine: $*" >&2; }
die() { say "$*"; exit 1; }

# need_room DIR MIB
need_room() {
    local free
    free=$(df --output=avail -BM "$1" | tail -n 1 | tr -dc 0-9)
    [ "$free" -ge "$2" ] || die "$free MiB are free for $1, $2 are needed: make room, or set XDG_CACHE_HOME to another folder"
}

# find_source sets source and version to what lies in the cache.
find_source() {
    local marker
    marker=$(find "$cache/linux-source" -maxdepth 1 -name '*.complete' 2>/dev/null | sort -V | tail -n 1)
    [ -n "$marker" ] || return 1
    source=${marker%.complete}
    version=${source##*/}
}

# download fetches the package into the current folder. The machine's package lists may be missing or too old; then it takes
# new ones, of its own.
download() {
    local options=(-qq -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Acquire::http::Timeout=30)
    apt-get "${options[@]}" download $package && return
    say "trying again with new package lists"
    mkdir -p lists/partial archives/partial
    options+=(-o "Dir::State::lists=$PWD/lists" -o "Dir::Cache=$PWD")
    apt-get "${options[@]}" update && apt-get "${options[@]}" download $package
}

# get_source fetches Debian's source, which apt checks against the signed index, unless it is there. It sets source and version.
get_source() {
    local dir=$cache/linux-source tmp deb
    mkdir -p "$dir"
    exec 8>"$dir/lock"
    flock 8
    if ! find_source; then
        command -v apt-get >/dev/null || die "$package comes from Debian's archive: run on Debian, or copy a filled $dir there"
        need_room "$dir" 2200
        rm -rf "$dir"/tmp-* # of runs that were interrupted
        tmp=$(mktemp -d "$dir/tmp-XXXXXX")
        say "fetching $package (140 MB) into $dir"
        (cd "$tmp" && download) || die "cannot download $package (see above): is the network there, and Debian 12's archive in /etc/apt/sources.list?"
        deb=$(echo "$tmp"/${package}_*.deb)
        version=$(dpkg-deb --field "$deb" Version)
        say "unpacking $package $version (1.5 GB)"
        dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/src/$package.tar.xz | tar -xJ -C "$tmp"
        rm -rf "$dir/$version"
        mv "$tmp/$package" "$dir/$version"
        rm -rf "$tmp"
        touch "$dir/$version.complete"
        find_source
    fi
    flock -u 8
}

# chain FRAGMENT prints what it is merged from, in order: allnoconfig or alldefconfig and then files.
chain() {
    local parent
    case $1 in
    allnoconfig | alldefconfig) echo "$1"; return ;;
    esac
    [ -f "$here/$1.config" ] || die "there is no fragment $1; there are: $(cd "$here" && echo *.config | sed 's/\.config//g')"
    for parent in $(sed -n 's/^# on: //p' "$here/$1.config"); do chain "$parent"; done
    echo "$here/$1.config"
}

# resolve NAME sets base, fragments and patches.
resolve() {
    local word words
    base='' fragments=() patches=()
    words=$(for word in ${1//+/ }; do chain "$word"; done) || exit
    for word in $words; do
        case $word in
        all*config) [ -z "$base" ] || [ "$base" = "$word" ] || die "$1: stands on both $base and $word"; base=$word ;;
        *) [[ " ${fragments[*]} " = *" $word "* ]] || fragments+=("$word") ;;
        esac
    done
    for word in $(sed -n 's/^# patch: //p' "${fragments[@]}"); do patches+=("$here/$word"); done
    [ -n "$base" ] || die "$1: no fragment says on which of allnoconfig and alldefconfig it stands"
}

# check CONFIG FRAGMENT…: does the configuration have what the fragments ask for, the last one that names an option deciding?
check() {
    awk -v name="$name" '
        match($0, /^(# )?CONFIG_[A-Za-z0-9_]+( is not set|=)/) {
            option = $0; sub(/^# /, "", option); sub(/[ =].*/, "", option)
            value = $0 ~ /^#/ ? "n" : substr($0, index($0, "=") + 1)
            if (FILENAME == ARGV[1]) has[option] = value
            else { want[option] = value; from[option] = FILENAME }
        }
        END {
            for (o in want) {
                got = o in has ? has[o] : "n"
                if (got == want[o]) continue
                sub(/.*\//, "", from[o])
                print "lupine: " name ": " from[o] " asks for " o "=" want[o] ", the configuration has " got \
                    ": what it depends on is missing, or the kernel has no such option" > "/dev/stderr"
                bad = 1
            }
            exit bad
        }' "$@"
}

# progress shows what make prints as a line every ten seconds.
progress() {
    local line n=0 begin=$SECONDS shown=$SECONDS
    while IFS= read -r line; do
        n=$((n + 1))
        if [ $((SECONDS - shown)) -ge 10 ]; then
            shown=$SECONDS
            say "$name: $n steps in $((shown - begin)) s"
        fi
    done
}

# build NAME sets result to the folder of its kernel.
build() {
    local hash log p begin=$SECONDS
    name=$1
    resolve "$name"
    for tool in make gcc flex bison bc patch; do
        command -v $tool >/dev/null || die "$tool is missing: sudo apt-get install make gcc flex bison bc patch libelf-dev, or scripts/setup.sh"
    done
    hash=$({ echo "$name $version $base"; gcc --version; ld --version; declare -f build; cat "${fragments[@]}" "${patches[@]}"; } | sha256sum | cut -c 1-24)
    result=$cache/lupine/$hash
    mkdir -p "$cache/lupine"
    exec 9>"$cache/lupine/$hash.lock"
    flock -n 9 || { say "$name: another process is building it"; flock 9; }
    if [ ! -d "$result" ]; then
        need_room "$cache/lupine" 1500
        tmp=$cache/lupine/$hash.tmp
        rm -rf "$tmp"
        mkdir -p "$tmp/build"
        log=$tmp/log
        trap 'rm -rf "$tmp/build" "$tmp/source"' EXIT # what a failure leaves is the log
        say "$name: building from $package $version with $jobs jobs"
        # Links instead of copies; patch(1) replaces what it changes.
        cp -al "$source" "$tmp/source"
        for p in "${patches[@]}"; do
            patch -s -p1 -d "$tmp/source" <"$p" || die "$name: $p does not fit $package $version"
        done
        local make=(make -C "$tmp/source" "O=$tmp/build" ARCH=x86_64 "LOCALVERSION=-$name"
            KBUILD_BUILD_USER=uvm KBUILD_BUILD_HOST=lupine KBUILD_BUILD_VERSION=1
            "KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$(stat -c %Y "$source/Makefile")")")
        if ! { (cd "$tmp/source" && scripts/kconfig/merge_config.sh -m -O "$tmp/build" "${fragments[@]}" &&
            mv "$tmp/build/.config" "$tmp/asked" && "${make[@]}" "KCONFIG_ALLCONFIG=$tmp/asked" "$base"); } >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            die "$name: cannot make a configuration; all of it: $log"
        fi
        check "$tmp/build/.config" "${fragments[@]}" || exit
        if ! "${make[@]}" "-j$jobs" vmlinux bzImage 2>&1 | tee -a "$log" | progress; then
            grep -m 1 -A 10 -E 'error:|Error |\*\*\*' "$log" >&2 || tail -n 20 "$log" >&2
            die "$name: the build failed; all of it: $log"
        fi
        strip -s -o "$tmp/vmlinux" "$tmp/build/vmlinux"
        cp "$tmp/build/arch/x86/boot/bzImage" "$tmp/build/.config" "$tmp/"
        rm -rf "$tmp/build" "$tmp/source"
        trap - EXIT
        echo $((SECONDS - begin)) >"$tmp/seconds"
        echo "$version" >"$tmp/version"
        mv "$tmp" "$result"
        say "$name: built in $((SECONDS - begin)) s"
    fi
    exec 9>&-
}

# strip, as build calls it: a kernel for gdb keeps its symbols. (Here and not in build, whose text is part of each kernel's hash.)
strip() {
    case $name in
    *+symbols*) command strip -g "${@:2}" ;;
    *) command strip "$@" ;;
    esac
}

# loaded FILE prints how many bytes of a kernel a monitor loads. (Between its parts the file has padding.)
loaded() {
    local size sum=0
    for size in $(readelf -lW "$1" | awk '$1 == "LOAD" { print $5 }'); do sum=$((sum + size)); done
    echo $sum
}

# beyond NAME prints how many options its fragments ask for on top of lupine-base, or - if it does not stand on that.
beyond() {
    local f count=0
    resolve "$1"
    [[ " ${fragments[*]} " = *" $here/lupine-base.config "* ]] || { echo -; return; }
    for f in "${fragments[@]}"; do
        [ "$f" = "$here/lupine-base.config" ] || count=$((count + $(grep -c '^CONFIG_.*=' "$f")))
    done
    echo $count
}

# table compares the kernels in the arrays names and results.
table() {
    local i whole='' size share
    for i in "${!names[@]}"; do
        [ "${names[i]}" = microvm ] && whole=$(loaded "${results[i]}/vmlinux")
    done
    printf '%-22s %-12s %8s %12s %12s %12s %11s %8s\n' kernel source options 'beyond base' vmlinux bzImage 'of microvm' built
    for i in "${!names[@]}"; do
        size=$(loaded "${results[i]}/vmlinux") share=-
        [ -z "$whole" ] || share=$((size * 100 / whole))%
        printf '%-22s %-12s %8d %12s %9d KiB %8d KiB %11s %6d s\n' "${names[i]}" "$(<"${results[i]}/version")" \
            "$(grep -c '^CONFIG_.*=[ym]$' "${results[i]}/.config")" "$(beyond "${names[i]}")" $((size >> 10)) \
            $(($(stat -c %s "${results[i]}/bzImage") >> 10)) "$share" "$(<"${results[i]}/seconds")"
    done
    echo 'The paper (Lupine Linux, EuroSys 2020; Linux 4.0): microvm 833 options, lupine-base 283; a lupine image has 4 MB, 27 to 33 % of microvm.'
}

out=$here/../../bin/guests
if [ "${1:-}" = -o ]; then
    out=$2
    shift 2
fi
[ $# -gt 0 ] || die "usage: build.sh [-o DIR] NAME… | --source"
get_source
if [ "$1" = --source ]; then
    echo "$source"
    exit
fi
mkdir -p "$out"
names=("$@") results=()
for n; do
    build "$n"
    results+=("$result")
    # Whoever runs the old one keeps it.
    if ! cmp -s "$result/vmlinux" "$out/$n.vmlinux"; then
        cp "$result/vmlinux" "$out/.$n.vmlinux.$$"
        mv "$out/.$n.vmlinux.$$" "$out/$n.vmlinux"
    fi
done
table
