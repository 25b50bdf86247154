#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the root file systems of real applications, as folders, from Debian's packages.
#
#   app.sh NAME…    redis, nginx, memcached, postgres, python: prints the folder of each; load: redis, nginx, and the
#                   programs that load them
#
# A folder has the application's packages and what they depend on, without what only their installation needs (maintainer
# scripts do not run), without documentation, translations and character sets, and with the accounts that the application changes to. Packages
# are named, not pinned: apt checks them against the signed index and takes the archive's current version, and
# DIR.packages lists what it took. Folders are kept in ~/.cache/uvm/apps by a hash of this file; remove one for newer packages.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/uvm/apps
say() { echo "app: $*" >&2; }
die() { say "$*"; exit 1; }

# packages NAME
packages() {
    case $1 in
    redis) echo redis-server ;;
    nginx) echo nginx-light ;;
    memcached) echo memcached ;;
    postgres) echo postgresql-15 tzdata ;;
    python) echo python3 ;;
    load) echo redis-server nginx-light apache2-utils ;;
    *) die "there is no application $1; there are: redis nginx memcached postgres python load" ;;
    esac
}

# What apt is told to be installed: needed to install packages or to administer a machine, not to run the application. (libllvm14
# is what postgres would dlopen to compile queries.)
present=(adduser bpf debconf dpkg init-system-helpers iproute2 libllvm14 libnginx-mod-http-echo locales lsb-base media-types passwd perl perl-base
    postgresql-common postgresql-client-common sensible-utils ssl-cert systemd sysvinit-utils tar ucf usrmerge)

# fetch PACKAGE… downloads the packages and what they depend on into archives/.
fetch() {
    local p options=(-qq -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o "Dir::State::status=$PWD/status"
        -o "Dir::Cache=$PWD" -o Debug::NoLocking=1 --no-install-recommends)
    for p in "${present[@]}"; do
        printf 'Package: %s\nStatus: install ok installed\nMaintainer: -\nArchitecture: amd64\nMulti-Arch: allowed\nVersion: 9999:9\nDescription: -\n\n' "$p"
    done >status
    mkdir -p archives/partial
    apt-get "${options[@]}" --download-only -y install "$@" && return
    say "trying again with new package lists"
    mkdir -p lists/partial
    options+=(-o "Dir::State::lists=$PWD/lists")
    apt-get "${options[@]}" update && apt-get "${options[@]}" --download-only -y install "$@"
}

# make_root NAME DIR
make_root() {
    local name=$1 dir=$2 list tmp deb
    list=$(packages "$name")
    tmp=$(mktemp -d "$cache/tmp-XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$tmp'" EXIT
    say "$name: fetching $list"
    # shellcheck disable=SC2086
    (cd "$tmp" && fetch $list >&2) || die "$name: cannot download its packages (see above): is the network there, and Debian 12's archive in /etc/apt/sources.list?"
    mkdir "$tmp/root"
    for deb in "$tmp"/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tmp/root" --no-same-owner \
            --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/info/*' \
            --exclude='./usr/share/lintian/*' --exclude='./usr/share/i18n/*' --exclude='*/bitcode/*' --exclude='*/gconv/*'
        dpkg-deb --show --showformat '${Package} ${Version}\n' "$deb"
    done | sort >"$tmp/packages"
    mkdir -p "$tmp"/root/{etc,var/lib,var/log,run,tmp}
    ln -sfn /run "$tmp/root/var/run"
    printf '%s\n' root:x:0:0::/:/bin/sh www-data:x:33:33::/:/bin/sh postgres:x:101:101::/var/lib/postgresql:/bin/sh \
        memcache:x:102:102::/:/bin/sh redis:x:103:103::/var/lib/redis:/bin/sh nobody:x:65534:65534::/:/bin/sh >"$tmp/root/etc/passwd"
    printf '%s\n' root:x:0: www-data:x:33: postgres:x:101: memcache:x:102: redis:x:103: nogroup:x:65534: >"$tmp/root/etc/group"
    echo '127.0.0.1 localhost' >"$tmp/root/etc/hosts"
    mv "$tmp/packages" "$dir.packages"
    mv "$tmp/root" "$dir"
    rm -rf "$tmp"
    trap - EXIT
    say "$name: $(wc -l <"$dir.packages") packages, $(du -sm "$dir" | cut -f 1) MB, in $dir"
}

[ $# -gt 0 ] || die "usage: app.sh NAME…"
for tool in apt-get dpkg-deb; do
    command -v $tool >/dev/null || die "$tool is missing: applications come from Debian's archive; run on Debian, or copy a filled $cache there"
done
mkdir -p "$cache"
hash=$(sha256sum "${BASH_SOURCE[0]}" | cut -c 1-12)
exec 9>"$cache/lock"
flock 9
for name; do
    dir=$cache/$name-$hash
    [ -d "$dir" ] || make_root "$name" "$dir"
    echo "$dir"
done
