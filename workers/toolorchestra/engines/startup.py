"""How long a starting process is waited for: as long as it gets on, and never longer than its whole time.

A fixed time is either too short for a large model on a cold disk, which is then started for ever, or so long that a
start that hangs is not noticed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import psutil

MIB = 1 << 20
CPU_SECONDS = 5.0
"""Computing time that is a sign of progress: threads that only wait burn less in `Patience.standing`."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds."""

    total: float = 1800.0
    """For the whole start."""
    standing: float = 300.0
    """Without any sign of progress."""


Signs = tuple[int, ...]
"""What changes while a process gets on. Any difference is progress."""


def signs_of(pid: int, log: Path) -> Signs:
    """Of a process with its descendants: bytes of its log, MiB read, MiB resident, computing time."""
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
            resident += process.memory_info().rss  # weights that are mapped are not read, but they become resident
            computed += times.user + times.system
        except psutil.Error:
            continue  # it has ended meanwhile, or is not ours to ask
    said = log.stat().st_size if log.exists() else 0
    return said, read // MIB, resident // (16 * MIB), int(computed / CPU_SECONDS)


@dataclass
class Progress:
    """Whether to go on waiting. Pure: the clock is given."""

    patience: Patience
    now: float
    _began: float = field(init=False)
    _moved: float = field(init=False)
    _signs: Signs = ()

    def __post_init__(self) -> None:
        self._began = self._moved = self.now

    def over(self, signs: Signs, *, now: float) -> str:
        """Which time is over, in words; empty: go on waiting."""
        if signs != self._signs:
            self._signs, self._moved = signs, now
        if now - self._began > self.patience.total:
            return f"{self.patience.total:g} s (spec.ray.engines.startTimeoutSeconds)"
        if now - self._moved > self.patience.standing:
            still = f"for {self.patience.standing:g} s it has read, said and computed nothing"
            return f"{now - self._began:.0f} s, and {still}"
        return ""
