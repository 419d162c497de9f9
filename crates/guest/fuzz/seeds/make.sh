#!/bin/bash
# seeds/make.sh: makes the small file systems that the targets of the readers lay their input over. Checksums that a
# fuzzer would never guess are left out (ext4, XFS) or put right by the target (btrfs).
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PATH:/usr/sbin:/sbin"
export MTOOLS_SKIP_CHECK=1
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
tree="$work/tree"
mkdir -p "$tree/etc" "$tree/many"
for n in $(seq 40); do echo "$n" >"$tree/many/file-with-a-long-name-$n"; done
for n in $(seq 900); do echo "line $n of a file of several blocks"; done >"$tree/big"
ln "$tree/big" "$tree/hard"
ln -s big "$tree/link"
ln -s "/a/target/that/does/not/fit/into/an/inode/and/has/a/block/of/its/own/$(printf 'x%.0s' $(seq 60))" "$tree/long"
echo 'ID=seed' >"$tree/etc/os-release"
mke2fs -q -F -t ext4 -O ^metadata_csum,^has_journal -b 1024 -d "$tree" "$work/ext4.img" 1M
mke2fs -q -F -t ext2 -b 1024 -d "$tree" "$work/ext2.img" 1M
{
    printf '/\n0 0\nd--755 0 0\nbig ---644 0 0 %s\nlink l--777 0 0 big\nmany d--755 0 0\n' "$tree/big"
    for n in $(seq 40); do echo "file-with-a-long-name-$n ---644 0 0 $tree/many/file-with-a-long-name-$n"; done
    printf '$\netc d--755 0 0\nos-release ---644 0 0 %s\n$\n$\n' "$tree/etc/os-release"
} >"$work/proto"
truncate -s 16M "$work/xfs.img"
mkfs.xfs --unsupported -q -m crc=0,finobt=0 -d agcount=1 -l size=4m -p "$work/proto" "$work/xfs.img"
truncate -s 20M "$work/btrfs.img"
mkfs.btrfs -q --mixed -n 4096 --rootdir "$tree" --shrink "$work/btrfs.img" >/dev/null
truncate -s 256K "$work/fat.img"
mkfs.vfat -n SEED "$work/fat.img" >/dev/null
mcopy -s -i "$work/fat.img" "$tree/etc" "$tree/many" "$tree/big" ::/
for image in "$work"/*.img; do gzip -9nc "$image" >"$(basename "$image").gz"; done
