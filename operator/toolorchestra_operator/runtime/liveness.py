"""Whether this process still does its work. Pure: what the probe's handler measured goes in, complaints come out.

A complaint is what a restart may heal: something that is stuck here. A watch that the API server refuses (a right is
missing), or an API server that is away, is none: the process goes on as well as it can, is not ready, and says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Pulse:
    """One worker's sign of life. `clock` is monotonic, in seconds."""

    clock: Callable[[], float] = time.monotonic
    running: bool = False
    """Between its start and its end, whatever ended it."""
    busy_since: float | None = None
    """None: it waits for a key."""

    def begins(self) -> None:
        """It has a key."""
        self.busy_since = self.clock()

    def ends(self) -> None:
        """It is through with it."""
        self.busy_since = None


@dataclass
class WatchHealth:
    """When each watch brought something last: an event or a bookmark, of which the API server sends one a minute."""

    clock: Callable[[], float] = time.monotonic
    all_open: asyncio.Event = field(default_factory=asyncio.Event)
    """Every watch that is expected was asked for, that is, what there was before is listed; or may not be."""
    _last: dict[str, float] = field(default_factory=dict[str, float])
    _failed: dict[str, tuple[float, str]] = field(default_factory=dict[str, tuple[float, str]])
    """Since it was heard: when asking for it failed last, and how."""
    _expected: set[str] = field(default_factory=set[str])

    def expect(self, watches: Iterable[str]) -> None:
        """They should be there soon: they are silent from now on."""
        self._expected = set(watches)
        for watch in self._expected:
            self._last.setdefault(watch, self.clock())
        self._note_open()

    def began(self, watch: str) -> None:
        """It was asked for. A watch that is asked for again and again, and brings nothing, stays silent."""
        self._last.setdefault(watch, self.clock())
        self._expected.discard(watch)
        self._note_open()

    def heard(self, watch: str) -> None:
        """It brought something."""
        self._last[watch] = self.clock()
        self._failed.pop(watch, None)

    def failed(self, watch: str, how: str) -> None:
        """It, or the list that comes before it, was not answered as it should be; it is tried again and again."""
        if watch in self._last:
            self._failed[watch] = self.clock(), how

    def refused(self, watch: str, how: str) -> None:
        """The same, and a moment later it will be no better: nobody waits for it."""
        self.failed(watch, how)
        self._expected.discard(watch)
        self._note_open()

    def answered(self, watch: str) -> None:
        """It, or the list before it, is no longer refused."""
        self._failed.pop(watch, None)

    @property
    def silent(self) -> Mapping[str, float]:
        """Seconds since then, or since asking for it failed last, of each."""
        now = self.clock()
        failed = {watch: when for watch, (when, _) in self._failed.items()}
        return {watch: now - max(last, failed.get(watch, last)) for watch, last in self._last.items()}

    @property
    def deaf(self) -> Mapping[str, str]:
        """The watches that cannot be opened, and why."""
        return {watch: how for watch, (_, how) in sorted(self._failed.items())}

    def _note_open(self) -> None:
        if not self._expected:
            self.all_open.set()


@dataclass(frozen=True)
class Limits:
    """In seconds: what still counts as alive."""

    stuck: float
    silence: float


def complaints(
    *, now: float, workers: Sequence[Pulse], oldest_key: float, silent: Mapping[str, float], limits: Limits
) -> tuple[str, ...]:
    """What is wrong, in words; empty: healthy. `oldest_key`: seconds for which a key has been due or at work."""
    found = []
    for number, worker in enumerate(workers):
        if not worker.running:
            found.append(f"worker {number} has ended")
        elif worker.busy_since is not None and now - worker.busy_since > limits.stuck:
            found.append(f"worker {number} has not finished a loop for {now - worker.busy_since:.0f} s")
    if oldest_key > limits.stuck:
        found.append(f"a resource has waited for {oldest_key:.0f} s")
    found += [
        f"the watch of {watch} has brought nothing for {seconds:.0f} s"
        for watch, seconds in sorted(silent.items())
        if seconds > limits.silence
    ]
    return tuple(found)
