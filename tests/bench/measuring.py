"""Interleaved repeats, processor time, and memory: how every row of the bench is measured."""

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psutil

SAMPLED_EVERY_S = 0.002


@dataclass(frozen=True)
class Timing:
    """Processor and wall seconds of one call."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Row:
    """One comparison: what was done, how much of it (`amount` of `unit`), by whom, and what it took in each repeat.

    `peer` is empty, and `theirs` too, where nobody else does this work.
    """

    name: str
    amount: int
    unit: str
    peer: str
    ours: list[Timing]
    theirs: list[Timing] = field(default_factory=list)
    note: str = ""

    def seconds(self, whose: str, clock: str) -> float | None:
        """The median over the repeats; `whose` is `ours` or `theirs`, `clock` is `cpu_s` or `wall_s`."""
        timings = getattr(self, whose)
        return median(getattr(timing, clock) for timing in timings) if timings else None

    def ratios(self) -> list[float]:
        """Processor time of the peer over ours, repeat by repeat: above 1, ours needs less."""
        return [theirs.cpu_s / ours.cpu_s for ours, theirs in zip(self.ours, self.theirs, strict=bool(self.theirs))]

    def record(self) -> dict[str, Any]:
        """Everything that was measured, for the file of results."""
        ours, theirs = (
            {clock: self.seconds(whose, clock) for clock in ("cpu_s", "wall_s")} for whose in ("ours", "theirs")
        )
        return {
            "name": self.name,
            "amount": self.amount,
            "unit": self.unit,
            "peer": self.peer,
            "ours": ours,
            "theirs": theirs if self.theirs else None,
            "ratios": self.ratios(),
            "note": self.note,
        }


def timed(work: Callable[[], object]) -> Timing:
    """One call. Processor time counts this process only, so what others do on the machine does not enter it."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Timing(time.process_time() - cpu, time.perf_counter() - wall)


def rate(amount: int, timings: list[Timing]) -> float:
    """How much of the work one processor second does, at the median."""
    return amount / median(timing.cpu_s for timing in timings)


def interleaved(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[list[Timing], list[Timing]]:
    """Both in turn, `repeats` times, so that a slow minute of the machine falls on both; first once unmeasured."""
    ours()
    theirs()
    pairs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def peak_extra_mb(work: Callable[[], object]) -> float:
    """How far resident memory rises above its start during one call, in MB, seen every few milliseconds."""
    process, done, peak = psutil.Process(), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            with suppress(psutil.Error):
                peak = max(peak, process.memory_info().rss)
            time.sleep(SAMPLED_EVERY_S)

    gc.collect()
    before = process.memory_info().rss
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(0, peak - before) / 1e6
