#!/bin/bash
# Builds kiln and shows its main job on a real disk: the one given, else the Debian 12 disk of the fixtures.
set -euo pipefail
cd "$(dirname "$0")/../../.."
disk="${1:-}"
if [ -n "$disk" ]; then
    cargo build --release --locked --package kiln-cli
else
    # One build for both; the disk's recipe needs Debian's packages.
    cargo build --release --locked --package kiln-cli --package kiln-xtask
    bash crates/xtask/scripts/setup.sh
    disk="$(target/release/kiln-xtask fixtures debian-12 | cut -f2)"
fi
store=target/demo/store
rm -rf "$store"
show() {
    echo
    echo "\$ kiln $*"
    target/release/kiln --store "$store" "$@"
}
ended() {
    [ -n "${web:-}" ] && target/release/kiln --store "$store" destroy --force web >/dev/null 2>&1
    true
}
trap ended EXIT
show inspect "$disk"
show import "$disk" --name debian:12
if [ -z "${1:-}" ]; then
    # The fixture starts anywhere; a disk of the user's own may need what this machine does not have.
    web=yes
    show launch debian:12 web
    show wait web --for boot
    show capture web --name web:golden
    show verify web:golden
    show destroy --force web
    web=
fi
show verify debian:12
show ls
show export debian:12 target/demo/debian.vhd -O vhd --force
show verify target/demo/debian.vhd --against debian:12
echo
echo "The store is $store; rm -r target/demo removes it."
