#!/bin/bash
# Installs what Kiln's tests, fixtures and measurements run: Debian packages, nothing else.
# Quick when all is there. Needs root or sudo only when something has to be installed.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/../../../fixtures/recipes/apt-env.sh"

# qemu-utils and qemu-system-x86 of different versions exclude each other: always both in one command.
qemu=(qemu-utils qemu-system-x86)
tools=(fsverity e2fsprogs gdisk dosfstools mtools mmdebstrap debian-archive-keyring grub-pc-bin
    grub-efi-amd64-bin grub-common strace ovmf jq busybox-static xz-utils bzip2 zstd lz4 libarchive-tools perl
    libvmdk-utils python3-libvmdk libvhdi-utils python3-libvhdi fdisk libxml2-utils gpgv gnupg minisign openssl python3
    python3-vmdkstream xfsprogs btrfs-progs lvm2 extlinux systemd-boot-efi xorriso genisoimage squashfs-tools openssh-client
    binutils procps sqlite3 util-linux mount ntfs-3g libhivex-bin libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients
    xmount guestfs-tools linux-image-cloud-amd64)

installed() { dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

qemu_is_ten() {
    local version package
    for package in "${qemu[@]}"; do
        installed "$package" || return 1
        version="$(dpkg-query -W -f='${Version}' "$package")"
        dpkg --compare-versions "$version" ge 1:10 || return 1
    done
}

command -v dpkg-query >/dev/null || kiln_die "this is not a Debian machine" "run the tests on Debian 12"
wanted=()
for package in "${tools[@]}"; do installed "$package" || wanted+=("$package"); done
qemu_is_ten || wanted+=("${qemu[@]}")
if [ ${#wanted[@]} -eq 0 ]; then
    echo "setup: all ${#tools[@]} packages and QEMU 10 are installed"
    exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null ||
        kiln_die "root is needed to install: ${wanted[*]}" "run 'make setup' once as root, or give this user sudo"
    as_root=(sudo -n)
fi

# A new machine has no index yet.
[ -n "$(kiln_apt_uri)" ] || "${as_root[@]}" apt-get update -qq
kiln_apt_env
echo "setup: installing ${wanted[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive APT_CONFIG="$APT_CONFIG" \
    apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 "${wanted[@]}" </dev/null

qemu_is_ten || kiln_die "QEMU is older than 10 after the installation" "see 'apt-cache policy qemu-utils qemu-system-x86'"
for package in "${tools[@]}"; do installed "$package" || kiln_die "$package is still missing"; done
echo "setup: done"
