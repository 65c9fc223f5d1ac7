"""shutdown, poweroff, halt and reboot of an instance: the cloud's clock decides when +N minutes are over."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path

LETTERS = {"c": "cancel", "r": "reboot", "H": "halt", "h": "poweroff", "P": "poweroff", "k": "warn"}
SCHEDULED = Path("/run/systemd/shutdown/scheduled")


def parse(name: str, words: list[str]) -> tuple[str, float]:
    """What is asked (poweroff, reboot, halt, cancel, warn), and in how many minutes."""
    action = {"reboot": "reboot", "halt": "halt"}.get(name, "poweroff")
    when = "now" if name != "shutdown" else "+1"
    times = []
    for word in words:
        if word.startswith("--"):
            continue
        if word.startswith("-") and len(word) > 1:
            for letter in word[1:]:
                action = LETTERS.get(letter, action)
        else:
            times.append(word)
    if times and name == "shutdown":
        when = times[0]
    if when == "now":
        return action, 0.0
    if not when.removeprefix("+").isdigit():
        sys.exit(f"Failed to parse time specification: {when}")
    return action, float(when)


def main() -> None:
    name, *words = sys.argv[1:]
    action, minutes = parse(name, words)
    if os.geteuid() != 0:
        sys.exit("Call to ScheduleShutdown failed: Access denied")
    seed = json.loads(Path("/run/cloud-init/seed.json").read_text())
    wish = json.dumps({"action": action, "minutes": minutes}).encode()
    with urllib.request.urlopen(f"{seed['imds']}/test-cloud/shutdown", wish) as answer:
        due = json.load(answer)["due"]
    if action == "cancel":
        SCHEDULED.unlink(missing_ok=True)
    elif minutes:
        SCHEDULED.parent.mkdir(parents=True, exist_ok=True)
        SCHEDULED.write_text(f"USEC={int(due * 1e6)}\nWARN_WALL=1\nMODE={action}\n")
        print(f"Shutdown scheduled for {due:.0f}, use 'shutdown -c' to cancel.", file=sys.stderr)


if __name__ == "__main__":
    main()
