#!/bin/sh
# Say what a machine has, in one round trip: key=value lines on stdout.
#
#   sh -s -- ROOT CODE_HASH CPU_LOCK GPU_LOCK FINGERPRINT < probe.sh
#
# ROOT may begin with ~/, which is the home folder there. Reads only; makes nothing.
set -u
root=$1 code=$2 cpu=$3 gpu=$4 data=$5
# shellcheck disable=SC2088 # the tilde comes as text and is expanded here
case $root in "~/"*) root=$HOME/${root#"~/"} ;; esac

is() { if "$@" >/dev/null 2>&1; then echo yes; else echo no; fi; }

place=$root
while [ ! -d "$place" ]; do place=$(dirname "$place"); done
lock=$cpu
if [ "$(is nvidia-smi -L)" = yes ]; then
    lock=$gpu
    echo "gpus=$(nvidia-smi -L 2>/dev/null | wc -l | tr -d ' ')"
    echo "driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)"
else
    echo "gpus=0"
fi
echo "lock=$lock"
echo "root=$root"
echo "user=$(id -un)"
echo "host=$(hostname 2>/dev/null || uname -n)"
echo "system=$(uname -sm)"
echo "python3=$(is command -v python3)"
echo "tmux=$(is command -v tmux)"
echo "free_kb=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')"
echo "writable=$(is test -w "$place")"
echo "now=$(date +%s)"
echo "code=$(is test -d "$root/code/$code")"
echo "env=$(is test -f "$root/env/$lock/.ready")"
echo "data=$(is test -d "$root/data/$data")"
echo "objects=$(is test -d "$root/objects")"
