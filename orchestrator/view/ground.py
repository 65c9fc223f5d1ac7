"""What a run stands on, as items of a page: recipe, process, data, GPUs, machine."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.text import Text

from orchestrator.health import Gpu
from orchestrator.progress import OVER, Snapshot
from orchestrator.view import figures
from orchestrator.view.layout import Item, Page
from orchestrator.view.text import words

LITTLE_DISK = 2e9  # bytes; a checkpoint and a best model want room
NARROW = 60  # cells; below, words are saved


class Ground:
    """The items of all that is not training itself."""

    def __init__(self, page: Page, snapshot: Snapshot) -> None:
        self.page, self.snapshot, self.progress = page, snapshot, snapshot.progress
        self.state, self.status = snapshot.verdict.state, snapshot.status
        self.health = self.status.health if self.status else None
        self.narrow = page.width < NARROW

    def items(self) -> Iterator[Item]:
        """From what was asked to where it runs."""
        yield self.recipe()
        yield from self.process()
        yield from self.dataset()
        yield from self.gpus()
        yield self.machine()
        yield from self.tensorboard()

    def recipe(self) -> Item:
        """What is trained, and what it was asked to differ in; a log of another program does not say."""
        spec = self.snapshot.run.spec
        if not spec.batch_size:
            return self.page.field("source", words((spec.recipe, "bold")), rank=8)
        asked = "".join(f", {key} {figures.said(value)}" for key, value in spec.params.items())
        batch = f", batches of {spec.batch_size}"
        return self.page.field("recipe", words((spec.recipe, "bold"), f"{batch}{asked}"), lines=1, rank=8)

    def process(self) -> Iterator[Item]:
        """Which process, since when, and how it ended."""
        status, progress = self.status, self.progress
        process = (status.process if status else None) or {}
        pid, since = process.get("pid", progress.pid), process.get("since", progress.attempt_started)
        ended = (status.exit if status else None) or {}
        if not (pid or ended):
            return
        said = [f"pid {pid}"] if self.state not in OVER else []
        if ended and self.state in OVER:
            how = ended.get("signal") or f"exit code {ended.get('code')}"
            said.append(f"{how} after {figures.duration(_number(ended.get('seconds')) or 0.0)}")
        if (begun := _number(since)) is not None:
            said.append(f"{'begun' if self.state in OVER else 'since'} {self.local(begun)}")
        if process.get("via"):
            said.append(f"in {process['via']}" if process["via"] == "tmux" else "without tmux")
        if progress.attempt:
            said.append(f"attempt {progress.attempt}")
        yield self.page.field("process", words(", ".join(said)), lines=1 if not self.narrow else 2, rank=7)

    def dataset(self) -> Iterator[Item]:
        """What it trains on."""
        found = self.progress.dataset
        if found is None:
            return
        left_out = f", {found.skipped} left out" if found.skipped else ""
        held_out = f", {found.test} held out" if found.test else ""
        shared = f", {found.shared_speakers} speakers on both sides" if found.shared_speakers else ""
        text = (
            f"{found.used} of {found.files} files{left_out}, {found.train} train, {found.val} val"
            f"{held_out} by {found.split}, {found.frames} × {found.dim}{shared}"
        )
        yield self.page.field("data", words(text), rank=7)
        total = max(1, sum(found.counts.values()))
        classes = ", ".join(f"{name} {count / total:.0%}" for name, count in found.counts.items())
        named = f"{len(found.classes)}: {classes}" if classes else str(len(found.classes))
        yield self.page.field("classes", words(named), lines=1, rank=8)

    def gpus(self) -> Iterator[Item]:
        """Use, memory, temperature, power; that there is none, plainly."""
        health = self.health
        if health is None:
            if self.progress.gpus:
                yield self.page.field("gpu", words(", ".join(self.progress.gpus)), rank=7)
            return
        for gpu in health.gpus:
            yield self.page.field("gpu", _gpu(gpu, self.narrow), rank=6)
        if not health.gpus:
            why = "" if health.no_gpus == "no nvidia-smi" else f" ({health.no_gpus})"
            yield self.page.field("gpu", words(f"none, trains on the CPU{why}"), rank=7)

    def machine(self) -> Item:
        """Where, and how much room there is."""
        run, status, health = self.snapshot.run, self.status, self.health
        said = words(run.machine.name if run.machine else run.where)
        if bill := self.snapshot.bill:
            until = f", ends by itself {self.local(bill.until)}" if bill.until else ""
            said.append_text(words(f", ${bill.usd:.2f} so far, ${bill.usd_per_hour:.2f} an hour{until}"))
        if status and status.disk_free is not None:
            little = status.disk_free < LITTLE_DISK
            free = f"{'only ' if little else ''}{figures.size(status.disk_free)} of disk free"
            said.append_text(words(", ", (free, "bold magenta" if little else "")))
        if health and health.memory_available is not None:
            said.append_text(words(f", {figures.size(health.memory_available)} of memory"))
        if health and health.load is not None and health.cpus:
            said.append_text(words(f", load {health.load:.1f} on {health.cpus} cores"))
        return self.page.field("machine", said, rank=7)

    def tensorboard(self) -> Iterator[Item]:
        """What shows the curves at large, once a run of ours has some."""
        if self.snapshot.next is None and self.progress.last:
            command = f"ec2emo tensorboard {self.snapshot.run.id}"
            yield self.page.field(
                "curves", words((command, "bold"), " shows them at large"), lines=1, rank=11
            )

    def local(self, then: float) -> str:
        """A time of the machine's clock, by the clock here."""
        here = time.time()
        return figures.clock(then - self.snapshot.now + here, here)

    def silent(self) -> str:
        """That a process runs and has not written a byte, as Python does while it imports."""
        status = self.status
        since = _number((status.process or {}).get("since")) if status else None
        if status is None or not status.alive or self.snapshot.log_count:
            return ""
        ran = f" for {figures.duration(self.snapshot.now - since)}" if since is not None else ""
        return f": no bytes yet, its process runs{ran}"

    def heartbeat(self) -> str:
        """Whether the log still moves: a slow run is not a hung one."""
        grew = self.health.log_grew if self.health else None
        if grew is None:
            return ""
        quiet = self.snapshot.now - grew
        if quiet < figures.MINUTE:
            return ", but its log still grows"
        return f", and nothing in its log for {figures.duration(quiet)}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _gpu(gpu: Gpu, narrow: bool) -> Text:
    """One GPU: what it does not tell is left out."""
    said = []
    if gpu.use is not None:
        said.append(f"{gpu.use:.0f} % used")
    if gpu.memory_used is not None and gpu.memory_total is not None:
        said.append(f"{figures.size(gpu.memory_used)} of {figures.size(gpu.memory_total)}")
    if gpu.temperature is not None:
        said.append(f"{gpu.temperature:.0f} °C")
    if gpu.power is not None:
        limit = f" of {gpu.power_limit:.0f}" if gpu.power_limit is not None and not narrow else ""
        said.append(f"{gpu.power:.0f}{limit} W")
    return words(gpu.name, ", " if said else "", ", ".join(said))
