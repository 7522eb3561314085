"""Whether this process still works. Pure: the measurements come in, complaints come out.

A complaint is a problem that a restart may solve: something in this process is stuck. A watch that the API server
refuses (a right is missing), or an API server that does not answer, is not a complaint: the process continues as well
as it can, is not ready, and says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Pulse:
    """The state of one worker. `clock` is monotonic, in seconds."""

    clock: Callable[[], float] = time.monotonic
    running: bool = False
    """True between the worker's start and its end, whatever ended it."""
    busy_since: float | None = None
    """When the worker took its key; None: it waits for one."""

    def begins(self) -> None:
        """Note that the worker took a key."""
        self.busy_since = self.clock()

    def ends(self) -> None:
        """Note that the worker finished its key."""
        self.busy_since = None


@dataclass
class WatchHealth:
    """When each watch last received an event or a bookmark; the API server sends one bookmark a minute."""

    clock: Callable[[], float] = time.monotonic
    all_open: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when every expected watch was requested (so that all earlier objects are listed), or was refused."""
    _last: dict[str, float] = field(default_factory=dict[str, float])
    _failed: dict[str, tuple[float, str]] = field(default_factory=dict[str, tuple[float, str]])
    """By watch, since it last received something: when the last request for it failed, and how."""
    _expected: set[str] = field(default_factory=set[str])

    def expect(self, watches: Iterable[str]) -> None:
        """Add watches that should soon be open; their silence is counted from now on."""
        self._expected = set(watches)
        for watch in self._expected:
            self._last.setdefault(watch, self.clock())
        self._note_open()

    def began(self, watch: str) -> None:
        """Note a request for the watch. A watch that is requested repeatedly and receives nothing stays silent."""
        self._last.setdefault(watch, self.clock())
        self._expected.discard(watch)
        self._note_open()

    def heard(self, watch: str) -> None:
        """Note that the watch received something."""
        self._last[watch] = self.clock()
        self._failed.pop(watch, None)

    def failed(self, watch: str, how: str) -> None:
        """Note that a request for the watch, or for the list before it, failed; it is repeated without end."""
        if watch in self._last:
            self._failed[watch] = self.clock(), how

    def refused(self, watch: str, how: str) -> None:
        """Note a failed request that a repetition will not help: nobody waits for this watch."""
        self.failed(watch, how)
        self._expected.discard(watch)
        self._note_open()

    def answered(self, watch: str) -> None:
        """Note that the watch, or the list before it, is no longer refused."""
        self._failed.pop(watch, None)

    @property
    def silent(self) -> Mapping[str, float]:
        """Seconds since each watch last received something, or since a request for it last failed."""
        now = self.clock()
        failed = {watch: when for watch, (when, _) in self._failed.items()}
        return {watch: now - max(last, failed.get(watch, last)) for watch, last in self._last.items()}

    @property
    def deaf(self) -> Mapping[str, str]:
        """The watches that cannot be opened, each with the reason."""
        return {watch: how for watch, (_, how) in sorted(self._failed.items())}

    def _note_open(self) -> None:
        if not self._expected:
            self.all_open.set()


@dataclass(frozen=True)
class Limits:
    """Limits of liveness, in seconds."""

    stuck: float
    silence: float


def complaints(
    *, now: float, workers: Sequence[Pulse], oldest_key: float, silent: Mapping[str, float], limits: Limits
) -> tuple[str, ...]:
    """Return what is wrong, as text; empty: healthy. `oldest_key`: seconds since the oldest key became due, or since
    its work began."""
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
