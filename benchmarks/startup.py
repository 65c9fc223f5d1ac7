"""How long `ec2emo --help` takes beside a bare Typer program, and what it imports.

    python -m benchmarks.startup [--runs N]

The two are started in turn, so that a busy machine slows both alike; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = "from orchestrator.__main__ import main; main()"
BARE = """
import typer
app = typer.Typer(add_completion=False, rich_markup_mode=None)
@app.command()
def one() -> None: "One."
@app.command()
def two() -> None: "Two."
app()
"""
HEAVY = ("boto3", "paramiko", "fabric", "tensorflow", "keras", "numpy", "rich")
LIST_IMPORTS = f"""
import sys
from orchestrator.cli import app
try: app()(["--help"], prog_name="ec2emo")
except SystemExit: pass
print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        bare, ours = Path(folder) / "bare.py", Path(folder) / "ours.py"
        bare.write_text(BARE)
        ours.write_text(OURS)
        pairs = [(_seconds(bare), _seconds(ours)) for _ in range(runs + 1)][1:]
    bare_s, ours_s = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    print(f"bare typer --help   {bare_s * 1000:6.0f} ms")
    print(f"ec2emo --help       {ours_s * 1000:6.0f} ms")
    ratio = statistics.median(o / b for b, o in pairs)
    print(f"ratio               {ratio:6.2f}   (pair by pair, {runs} pairs)")
    heavy = subprocess.run([sys.executable, "-c", LIST_IMPORTS], capture_output=True, text=True, check=True)
    print(f"of {', '.join(HEAVY)} it imports: {heavy.stderr.strip()}")


def _seconds(program: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, str(program), "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
