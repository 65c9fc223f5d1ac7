"""What we do on a machine, in our words, over a Shell."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import stream
from orchestrator.bundle import Bundle
from orchestrator.errors import BadRequest, RunFailed, StrangeAnswer
from orchestrator.health import parse
from orchestrator.machine import Machine
from orchestrator.progress import Status
from orchestrator.run import Run
from orchestrator.shell import Shell
from trainer import contract

if TYPE_CHECKING:
    from trainer.clips import Clip

CPU_LOCK, GPU_LOCK = "requirements-cpu.lock", "requirements-gpu.lock"
ENVIRONMENT_BYTES = 3_000_000_000  # the CPU environment takes 1.8 GB, and pip needs room to unpack
DATA_PATIENCE = 600.0  # seconds without a sign, while a slow disk is asked for many files
MIRROR_PATIENCE = 120.0  # seconds for the last of a run to reach S3
LAUNCH_PATIENCE = 90.0  # seconds without a word from launch.sh
STATUS_PATIENCE = 20.0  # seconds; a machine that trains on every core takes a while to start a Python

LOOK = (
    "import json, pathlib, sys; from trainer import clips; "
    "print(json.dumps(json.loads(clips.check(pathlib.Path(sys.argv[1])).to_json())))"
)

SEE = (
    "import json, tensorflow as tf; made = tf.sysconfig.get_build_info(); "
    "name = lambda d: tf.config.experimental.get_device_details(d).get('device_name', d.name); "
    "print(json.dumps({'tensorflow': tf.__version__, 'cuda': made.get('cuda_version'), "
    "'cudnn': made.get('cudnn_version'), 'gpus': [name(d) for d in tf.config.list_physical_devices('GPU')]}))"
)

FOUND = ("python3", "tmux", "writable", "code", "env", "data", "objects")

Say = Callable[[str], None]
OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class Facts:
    """What probe.sh found. `code`, `env` and `data` say whether ours is there, `objects` whether any data
    ever came; `driver` is NVIDIA's.
    """

    root: str
    user: str
    host: str
    system: str
    lock: str
    gpus: int
    python3: bool
    tmux: bool
    writable: bool
    free_bytes: int
    now: float
    code: bool
    env: bool
    data: bool
    objects: bool
    driver: str | None = None


def probe(shell: Shell, machine: Machine, bundle: Bundle, fingerprint: str = "-") -> Facts:
    """Look at the machine in one round trip. Raises ContactLost, or RunFailed when it has no shell."""
    locks = [bundle.lock_hash(CPU_LOCK), bundle.lock_hash(GPU_LOCK)]
    script = bundle.files["remote_env/probe.sh"]
    argv = ["sh", "-s", "--", machine.root, bundle.hash, *locks, fingerprint or "-"]
    answer = shell.run(argv, stdin=script)
    found = dict(
        line.split("=", 1) for line in answer.out.decode("utf-8", "replace").splitlines() if "=" in line
    )
    try:
        facts = Facts(
            root=found["root"],
            user=found["user"],
            host=found["host"],
            system=found["system"],
            lock=found["lock"],
            gpus=int(found["gpus"]),
            free_bytes=int(found["free_kb"]) * 1024,
            now=float(found["now"]),
            driver=found.get("driver") or None,
            **{k: found[k] == "yes" for k in FOUND},
        )
    except (KeyError, ValueError) as e:
        raise RunFailed(
            f"{machine.name} did not say what it has ({answer.last_error}): ec2emo needs a plain sh there"
        ) from e
    if not facts.writable:
        raise BadRequest(f"{facts.user} may not write to {facts.root} on {machine.name}: name another user")
    return facts


def code_dir(facts: Facts, bundle: Bundle) -> str:
    """Where this code lies on the machine."""
    return f"{facts.root}/code/{bundle.hash}"


def send_code(shell: Shell, facts: Facts, bundle: Bundle) -> None:
    """Put the code there unless it is there; renamed into place whole."""
    if facts.code:
        return
    script = (
        'set -e; mkdir -p "$1"; aside=$(mktemp -d "$1/.XXXXXX"); tar -xzf - -C "$aside"; chmod 755 "$aside"; '
        '[ -d "$1/$2" ] || mv "$aside" "$1/$2"; rm -rf "$aside" "$1/$2/${aside##*/}"'
    )  # the last: of two at once, the second mv may have moved its folder into that of the first
    argv = ["sh", "-c", script, "send_code", f"{facts.root}/code", bundle.hash]
    _checked(shell, argv, "the code could not be put there", facts, stdin=bundle.archive)


def environment(shell: Shell, machine: Machine, facts: Facts, bundle: Bundle, say: Say) -> str:
    """The path of a Python that has what training needs, made once for each lock and then reused.

    Raises RunFailed when it cannot be made.
    """
    if machine.provider == "local" and trains_here():
        return sys.executable
    if facts.env:
        return f"{facts.root}/env/{facts.lock}/bin/python"
    _need_room(facts, ENVIRONMENT_BYTES, "the Python environment")
    code = code_dir(facts, bundle)
    lock = next(n for n in (CPU_LOCK, GPU_LOCK) if bundle.lock_hash(n) == facts.lock)
    argv = ["sh", f"{code}/remote_env/bootstrap.sh", facts.root, f"{code}/remote_env/{lock}"]
    out = _checked(
        shell, argv, "the Python environment could not be made", facts, timeout=None, on_error_line=say
    )
    return str(_json(out)["python"])


def accelerators(shell: Shell, facts: Facts, python: str) -> dict[str, Any]:
    """What TensorFlow sees there: its version, CUDA's and cuDNN's, the driver's, and the GPUs' names.

    Raises RunFailed.
    """
    argv = ["env", "TF_CPP_MIN_LOG_LEVEL=3", python, "-P", "-c", SEE]
    seen = _json(
        _checked(shell, argv, "TensorFlow could not be asked for GPUs", facts, timeout=DATA_PATIENCE)
    )
    return {**seen, "driver": facts.driver}


def send_data(
    shell: Shell,
    facts: Facts,
    code: str,
    python: str,
    folder: Path,
    fingerprint: str,
    clips: tuple[Clip, ...],
    on_bytes: OnBytes,
) -> str:
    """Put the clips there by content and answer their folder; nothing is sent that is there already.

    A machine that has no data yet is not asked what it lacks.
    """
    target = f"{facts.root}/data/{fingerprint}"
    if facts.data:
        return target
    receive = [python, "-IS", f"{code}/remote_env/receive.py"]
    listing = json.dumps({"files": [[c.path, c.bytes, c.sha256] for c in clips]}).encode()
    lacking = {c.sha256: c for c in clips}
    if facts.objects:
        asked = _checked(
            shell,
            [*receive, "need", facts.root, fingerprint],
            "the data could not be compared",
            facts,
            stdin=listing,
            timeout=DATA_PATIENCE,
        )
        lacking = {digest: lacking[digest] for digest in _json(asked)["need"]}
        listing = b""  # which it now has
    if lacking:
        _need_room(facts, sum(c.bytes for c in lacking.values()), "the data")
        _checked(
            shell,
            [*receive, "accept", facts.root, fingerprint],
            "the data did not arrive",
            facts,
            stdin=stream.tar(folder, [*lacking.values()], on_bytes, listing),
            timeout=DATA_PATIENCE,
        )
    return target


def check_data_there(shell: Shell, facts: Facts, code: str, python: str, folder: str) -> dict[str, Any]:
    """Look at a data folder on the machine with the code that looks at folders here."""
    argv = ["env", f"PYTHONPATH={code}", python, "-P", "-c", LOOK, folder]
    return _json(_checked(shell, argv, f"{folder} could not be looked at", facts, timeout=DATA_PATIENCE))


def feature_folders(shell: Shell, folders: Sequence[str]) -> list[tuple[str, int]]:
    """Those of the folders that hold feature files, as absolute paths without links, and how many files."""
    script = (
        'for d; do case $d in "~/"*) d=$HOME/${d#"~/"};; esac; cd "$d" 2>/dev/null || continue; '
        'printf "%s %s\\n" "$(find -L . -type f \\( -name "*.npz" -o -name "*.npy" \\) 2>/dev/null | wc -l)" '
        '"$(pwd -P)"; done'
    )
    answer = shell.run(["sh", "-c", script, "feature_folders", *folders], timeout=DATA_PATIENCE)
    rows = [line.split(maxsplit=1) for line in answer.out.decode("utf-8", "replace").splitlines()]
    counted = {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdecimal()}
    return [(path, count) for path, count in counted.items() if count]


def examine(shell: Shell, run: Run, code: str, data: str) -> dict[str, Any]:
    """What the run's best model is worth on data there. Raises BadRequest when they do not fit it."""
    return _evaluated(shell, run, code, "trainer.examine", run.folder, data)


def pool(shell: Shell, runs: Sequence[Run], code: str) -> dict[str, Any]:
    """What folds say of the clips they held out. Raises BadRequest while there is nothing to say."""
    return _evaluated(shell, runs[0], code, "trainer.pool", *(run.folder for run in runs))


def _evaluated(shell: Shell, run: Run, code: str, module: str, *argv: str) -> dict[str, Any]:
    answer = shell.run(
        ["env", f"PYTHONPATH={code}", str(run.python), "-P", "-m", module, *argv], timeout=None
    )
    if answer.code == 2:
        raise BadRequest(answer.last_error, run=run.id)
    if answer.code != 0:
        raise RunFailed(
            f"the best model of {run.id} could not be evaluated ({answer.last_error}): look with 'ec2emo ssh "
            f"{run.id}'",
            run=run.id,
        )
    return _json(answer.out)


def launch(
    shell: Shell, run: Run, spec: contract.Spec, attempt: contract.Attempt, code: str, python: str
) -> int:
    """Start an attempt and wait for the supervisor's word; answers its number. Repeatable with its token.

    Raises BadRequest when the run is alive already, RunFailed when the supervisor does not start.
    """
    argv = ["sh", f"{code}/remote_env/launch.sh", python, run.folder, code, attempt.token]
    argv.append(json.dumps(dataclasses.asdict(attempt)))
    request = json.dumps({"spec": dataclasses.asdict(spec)}).encode()
    answer = shell.run(argv, stdin=request, timeout=LAUNCH_PATIENCE)
    if answer.code != 0:
        raise RunFailed(f"{run.id} could not be started ({answer.last_error})", run=run.id)
    word = _json(answer.out)
    if word["started"]:
        return int(word["attempt"])
    if word["why"] == "running":
        raise BadRequest(
            f"{run.id} is running already: 'ec2emo monitor {run.id} --follow', or 'ec2emo stop {run.id}'",
            run=run.id,
        )
    said = next((line for line in reversed(word.get("tail") or []) if line.strip()), "it said nothing")
    raise RunFailed(f"the supervisor of {run.id} did not start: {said}", run=run.id)


def status(shell: Shell, run: Run, *, health: bool = False) -> Status:
    """Ask the kernel and the supervisor; with `health` also the GPUs, memory and load.

    Raises ContactLost, StrangeAnswer when there is no sensible answer.
    """
    asked = ["--health"] if health else []
    try:
        answer = _supervise(shell, run, "status", *asked)
        return contract.build(Status, answer | {"health": parse(answer.get("health"))}, "its answer")
    except contract.ContractError as e:
        raise StrangeAnswer(f"{e}: look with 'ec2emo ssh {run.id}'", run=run.id) from e


def stop(shell: Shell, run: Run, *, kill: bool) -> bool:
    """Ask the trainer to end, or end it now; False when it is not running."""
    return bool(_supervise(shell, run, "stop", *(["--kill"] if kill else []))["asked"])


def restore(shell: Shell, run: Run, code: str, python: str) -> int | None:
    """Bring the run's folder back from its copy in S3: how many files it has; None when it is there already.

    Raises RunFailed.
    """
    argv = ["env", f"PYTHONPATH={code}", python, "-P", "-m", "remote_env.mirror", "restore", run.folder]
    answer = shell.run(argv, timeout=DATA_PATIENCE)
    if answer.code != 0:
        raise RunFailed(f"{run.id} could not be brought back from S3 ({answer.last_error})", run=run.id)
    restored = _json(answer.out)["restored"]
    return None if restored is None else int(restored)


def await_mirror(shell: Shell, run: Run, attempt: int) -> bool:
    """Whether the copy of an ended attempt became whole while it was waited for."""
    until = time.monotonic() + MIRROR_PATIENCE
    mark = f"{run.folder}/mirrored"
    while shell.run(["cat", mark]).out.strip() != str(attempt).encode():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def note_collected(shell: Shell, run: Run, digests: Iterable[str]) -> None:
    """Leave a mark of what is home: a rented machine's guard ends it only when nothing would be lost."""
    script = 'file=$1; shift; printf "%s\\n" "$@" >>"$file"'
    shell.run(["sh", "-c", script, "note_collected", f"{run.folder}/collected", *digests])


def _supervise(shell: Shell, run: Run, verb: str, *options: str) -> dict[str, Any]:
    last = run.attempts[-1] if run.attempts else None
    if last is None or run.python is None:
        raise BadRequest(f"{run.id} was never launched: deploy again", run=run.id)
    script = f"{run.root}/code/{last.code}/remote_env/supervise.py"
    argv = [run.python, "-IS", script, verb, run.folder, *options]
    answer = shell.run(argv, timeout=STATUS_PATIENCE)
    if answer.code != 0:
        where = run.machine.name if run.machine else run.where
        raise StrangeAnswer(
            f"{where} answers, but not for {run.id} ({answer.last_error}): was {run.root} moved or cleaned?",
            run=run.id,
        )
    return _json(answer.out)


def trains_here() -> bool:
    """Whether this Python has the `train` extra."""
    return all(
        importlib.util.find_spec(name) for name in ("tensorflow", "keras", "sklearn", "matplotlib", "jinja2")
    )


def _checked(shell: Shell, argv: list[str], what: str, facts: Facts, **options: Any) -> bytes:
    answer = shell.run(argv, **options)
    if answer.code != 0:
        raise RunFailed(f"{what} on {facts.host} ({answer.last_error}): mend that and repeat the command")
    return answer.out


def _json(out: bytes) -> dict[str, Any]:
    """The last line of an answer; machines may greet before it."""
    lines = out.decode("utf-8", "replace").strip().splitlines() or [""]
    try:
        body = json.loads(lines[-1])
    except (ValueError, RecursionError) as e:
        raise StrangeAnswer(f"the machine's answer is not readable: {lines[-1]!r:.120}") from e
    if not isinstance(body, Mapping):
        raise StrangeAnswer(f"the machine's answer is not readable: {lines[-1]!r:.120}")
    return dict(body)


def _need_room(facts: Facts, needed: int, what: str) -> None:
    if facts.free_bytes < needed:
        raise BadRequest(
            f"{what} needs {needed / 1e9:.1f} GB in {facts.root} on {facts.host}, which has "
            f"{facts.free_bytes / 1e9:.1f} GB free: make room there"
        )
