#!/bin/sh
# Make, or reuse, the Python environment that a lock file describes.
#
#   sh bootstrap.sh ROOT LOCKFILE
#
# Reads   LOCKFILE, each requirement of it pinned with sha256; the machine's own settings for uv or pip.
# Writes  ROOT/env/HASH/, HASH being the first 16 hex digits of LOCKFILE's sha256; `.ready` in it comes last.
#         ROOT/env/HASH.log: what the installer said. ROOT/env/HASH.lock: held (flock) by the one that builds.
# Stdout  its last line: {"python": "/abs/path/bin/python", "made": true or false, "lock": "HASH"}
# Stderr  one line for each phase, for people; after a failure the last line says why.
# Exit    0 ready; 1 installing failed and was undone; 2 wrong arguments; 3 the machine lacks something;
#         143 told to end. Ended half way, the next call clears up and builds again; called twice at once,
#         one builds and the other waits. It goes on when the connection it was started over is gone.
set -eu
unset CDPATH PYTHONHOME PYTHONPATH # what they name would pass for installed

say() { printf 'bootstrap: %s\n' "$*" >&2 || :; }
quit() { code=$1 && shift && say "$*" && exit "$code"; }

[ $# -eq 2 ] || quit 2 "usage: sh bootstrap.sh ROOT LOCKFILE"
[ -r "$2" ] || quit 2 "cannot read the lock file $2"
hash=$({ sha256sum || shasum -a 256; } <"$2" 2>/dev/null | cut -c1-16)
[ ${#hash} -eq 16 ] || quit 3 "sha256sum is missing on this machine; install coreutils"
mkdir -p "$1/env" || quit 1 "cannot write to $1"
lockfile=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
root=$(cd "$1" && pwd)
env=$root/env/$hash
log=$env.log

# The second half: an upgrade of the system can take away the Python that an environment points to.
ready() { [ -f "$env/.ready" ] && [ -x "$env/bin/python" ]; }
answer() {
    python=$(printf '%s' "$env/bin/python" | sed 's/[\\"]/\\&/g')
    printf '{"python": "%s", "made": %s, "lock": "%s"}\n' "$python" "$1" "$hash"
    exit 0
}
ready && answer false

# Installers inherit descriptor 9: the kernel frees the lock only when they are gone, too.
exec 9>>"$env.lock"
if command -v flock >/dev/null; then
    flock -n 9 || { say "another call builds this environment; waiting for it" && flock 9; }
else # macOS has no flock(1), but has this
    perl -e 'open F, "<&=9" and flock F, 2 or die' || quit 3 "flock is missing; install util-linux"
fi
ready && answer false

# Asked of Python itself: a name on the PATH may be a shim of pyenv with nothing behind it.
find_python() {
    for name in python3.13 python3.12 python3.11 python3 \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[123].*/bin/python3; do
        "$name" -E -c "import sys; $1; assert (3, 11) <= sys.version_info < (3, 14); print(sys.executable)" \
            2>/dev/null && return
    done
    return 1
}
failed() {
    free=$(df -Pk "$root" | awk 'NR == 2 { print int($4 / 1024) }')
    rm -rf "$env"
    tail -n 15 "$log" | sed 's/^/    /' >&2 || :
    why="see above"
    grep -q -i 'connect\|timed out\|no matching dist' "$log" && why="a download failed, or the index lacks a package"
    grep -q -i 'hash mismatch\|not match the hashes' "$log" && why="a package is not what the lock file pins"
    if [ "$free" -lt 16 ] || grep -q 'No space left' "$log"; then why="the disk is full"; fi
    quit 1 "installing failed: $why ($free MiB are free; all that was said: $log)"
}
attempt() {
    "$@" </dev/null >>"$log" 2>&1 &
    child=$!
    wait "$child" || failed
}

trap 'kill "${child:-}" 2>/dev/null || :; quit 143 "told to end; the next call begins again"' INT TERM
trap '' HUP PIPE
PATH=$PATH:${HOME:-}/.local/bin:${HOME:-}/.cargo/bin
rm -rf "$env" "$log"
if command -v uv >/dev/null; then
    base=$(find_python pass) || base=3.11 # uv fetches that one
    say "making $env with uv and Python $base"
    attempt uv venv --no-project --python "$base" "$env"
    # Trusting what the machine trusts, by the variable's new name and its old one.
    set -- env UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1 uv pip install --python "$env/bin/python" --compile-bytecode
elif base=$(find_python "import venv, ensurepip; ensurepip.version()"); then
    say "making $env with $base"
    attempt "$base" -m venv "$env"
    set -- env PIP_USER=0 "$env/bin/python" -m pip install --progress-bar off
elif base=$(find_python pass); then
    quit 3 "$base cannot make environments; run apt-get install python3-venv, or install uv"
else
    quit 3 "no Python 3.11 to 3.13 and no uv here; run apt-get install python3 python3-venv, or install uv"
fi
say "installing the $(grep -c '^[A-Za-z0-9]' "$lockfile") packages of $lockfile; the first time takes minutes"
export TMPDIR="$env/tmp" # /tmp may be small, and in memory
mkdir "$TMPDIR"
# Wheels alone: a machine paid by the hour does not compile.
attempt "$@" --require-hashes --no-deps --only-binary :all: -r "$lockfile"
rm -rf "$TMPDIR"
printf '%s\n' "$hash" >"$env/.making"
mv "$env/.making" "$env/.ready"
answer true
