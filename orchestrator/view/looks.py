"""How the state of a run looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.progress import State

# Never a colour alone: a sign and a word go with it. No yellow, white or black, which half the themes hide.
LOOKS: dict[State, tuple[str, str]] = {
    "starting": ("○", "bold cyan"),
    "running": ("●", "bold green"),
    "stalled": ("▪", "bold magenta"),
    "finished": ("✓", "bold green"),
    "stopped": ("■", "bold magenta"),
    "interrupted": ("■", "bold magenta"),
    "capped": ("■", "bold magenta"),
    "failed": ("✗", "bold red"),
    "lost": ("?", "bold red"),
    "unreachable": ("!", "bold magenta"),
}
