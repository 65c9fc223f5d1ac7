#!/bin/sh
# The firmware of an instance: its disk over this machine's own files, then its first process.
#
#   boot.sh HOSTNAME IMAGE FOLDER PYTHON [SOURCE TARGET]…
#
# Runs in mount, process, host name and IPC namespaces of its own (unshare), so nothing of it outlives them.
# Standard input is the power line: init.py reads its orders there and stops at the end of it.
set -eu
name=$1 image=$2 folder=$3 python=$4 root=$3/root
shift 4
# A layer may not lie within another, and the lowest is all there is: the image moves to a file system of its own.
mount -t tmpfs tmpfs "$folder/image"
cp -a "$image/." "$folder/image"
mount -t overlay overlay -o "lowerdir=$folder/image:/,upperdir=$folder/disk,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$folder/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkfifo -m 600 "$root/run/console"
mount --bind "$root/run/console" "$root/dev/console"
while [ $# -gt 1 ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")" && : >>"$root$2"; fi
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
    shift 2
done
hostname "$name"
cd "$root"
exec chroot "$root" "$python" -I /usr/local/lib/cloud/init.py
