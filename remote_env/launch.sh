#!/bin/sh
# Start the supervisor of a run so that it outlives this connection, and wait for its word.
#
#   launch.sh PYTHON RUN_DIR CODE_DIR TOKEN ATTEMPT_JSON < {"spec": {...}}
#
# PYTHON runs the trainer, CODE_DIR holds trainer/ and remote_env/. In tmux where the machine has it, with
# nohup else. Prints one JSON object: {"started": true, "attempt": N} or {"started": false, "why": "..."}.
# The same TOKEN never starts twice.
set -eu
python=$1 run_dir=$2 code=$3 token=$4 attempt=$5
supervise=$code/remote_env/supervise.py
session=ec2emo-$(basename "$run_dir")

# -I -S: the supervisor needs the standard library alone, and starts twice as fast without the rest.
word=$("$python" -IS "$supervise" begin "$run_dir" "$token")
case $word in
*'"started": true'*)
    printf '%s\n' "$word"
    exit 0
    ;;
esac

# -P keeps the folder one happens to stand in out of the import path.
set -- "$python" -P -m trainer "$run_dir"
export PYTHONPATH="$code"
via="nohup"
if command -v tmux >/dev/null 2>&1; then
    # The variable goes as an argument of env: a tmux server that runs already has its own environment.
    if tmux new-session -d -s "$session" -x 200 -y 50 \
        env PYTHONPATH="$code" "$python" -IS "$supervise" run "$run_dir" tmux "$attempt" "$@" \
        2>>"$run_dir/supervisor.log"; then
        via="tmux"
    fi
fi
if [ "$via" = nohup ]; then
    nohup "$python" -IS "$supervise" run "$run_dir" nohup "$attempt" "$@" \
        </dev/null >>"$run_dir/supervisor.log" 2>&1 &
fi
exec "$python" -IS "$supervise" await "$run_dir" "$token"
