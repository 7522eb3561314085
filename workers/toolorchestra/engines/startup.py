"""Time limits for a process that starts: it may continue while it makes progress, up to a total limit.

A fixed limit has two problems. If it is short, a large model on a cold disk is restarted for ever. If it is long, a
start that hangs is noticed late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import psutil

MIB = 1 << 20
CPU_SECONDS = 5.0
"""CPU time that counts as progress. Threads that only wait use less than this within `Patience.standing`."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Time limits in seconds."""

    total: float = 1800.0
    """Limit for the whole start."""
    standing: float = 300.0
    """Limit for a time without any sign of progress."""


Signs = tuple[int, ...]
"""Values that change while a process makes progress. Any difference counts as progress."""


def signs_of(pid: int, log: Path) -> Signs:
    """Return the signs of a process and its descendants: bytes of its log, MiB read, MiB resident, CPU time."""
    read = resident = 0
    computed = 0.0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for process in family:
        try:
            io, times = process.io_counters(), process.cpu_times()
            read += io.read_bytes + io.read_chars
            resident += process.memory_info().rss  # memory-mapped weights are not read, but they become resident
            computed += times.user + times.system
        except psutil.Error:
            continue  # the process has ended, or belongs to another user
    said = log.stat().st_size if log.exists() else 0
    return said, read // MIB, resident // (16 * MIB), int(computed / CPU_SECONDS)


@dataclass
class Progress:
    """Decides whether to continue waiting. Pure: the caller gives the time."""

    patience: Patience
    now: float
    _began: float = field(init=False)
    _moved: float = field(init=False)
    _signs: Signs = ()

    def __post_init__(self) -> None:
        self._began = self._moved = self.now

    def over(self, signs: Signs, *, now: float) -> str:
        """Return which limit was exceeded, as text; empty: continue waiting."""
        if signs != self._signs:
            self._signs, self._moved = signs, now
        if now - self._began > self.patience.total:
            return f"{self.patience.total:g} s (spec.ray.engines.startTimeoutSeconds)"
        if now - self._moved > self.patience.standing:
            still = f"without any output, reading or computing for {self.patience.standing:g} s"
            return f"{now - self._began:.0f} s, {still}"
        return ""
