"""How a machine is doing, as supervise.py told it: its GPUs, memory, load, and when the log last grew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.contract import ContractError, build

MOST_GPUS = 16  # more are no machine's, whatever it says


@dataclass(frozen=True)
class Gpu:
    """One GPU. `use` in percent, memory in bytes, `temperature` in °C, power in W; None is what it does
    not tell.
    """

    name: str
    use: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None


@dataclass(frozen=True)
class Health:
    """`gpus` is empty where there are none, or none that answer; `no_gpus` then says why."""

    gpus: tuple[Gpu, ...] = ()
    no_gpus: str | None = None
    cpus: int | None = None
    load: float | None = None
    memory_total: int | None = None
    memory_available: int | None = None
    log_bytes: int | None = None
    log_grew: float | None = None


def parse(body: object) -> Health | None:
    """What is in a status; None from a supervisor of before. Raises ContractError for anything else."""
    if body is None:
        return None
    gpus = body.get("gpus") if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(gpus, list):
        raise ContractError("its health has no list of GPUs")
    known = tuple(build(Gpu, gpu, "a GPU") for gpu in gpus[:MOST_GPUS])
    return build(Health, {**body, "gpus": known}, "its health")
