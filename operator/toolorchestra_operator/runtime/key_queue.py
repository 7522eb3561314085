"""The queue of parents to reconcile: each key is in it at most once, never taken twice at a time, and never lost.

Invariants
- A key is taken at its due time or earlier, and after it was added. An earlier reconcile also serves a later request
  (each reconcile asks for the next one, `requeue_after`), so only the earliest due time of a key is kept.
- A key that is being worked on is not taken again until it is done. If it is added meanwhile, it is due once more right
  after.
- Between the end of one reconcile and the start of the next are at least `spacing` seconds, or the `hold` of `done`: no
  reconciler and no burst of events becomes a busy loop.
- Namespaces take turns, and at most `most` keys of one namespace are worked on at a time: neither the number of a
  namespace's keys nor the time that they take delays another namespace. Within a namespace, keys are taken in the order
  in which they became due.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from toolorchestra_operator.kubernetes.manifest import Key

_SLACK = 64
"""Outdated entries that the heap of delays may hold before it is rebuilt."""


@dataclass
class KeyQueue:
    """The queue, for one event loop. `clock` is monotonic, in seconds."""

    clock: Callable[[], float] = time.monotonic
    spacing: float = 0.1
    most: int | None = None
    """The most keys of one namespace that may be worked on at a time; None: no limit."""
    _ready: dict[str, dict[Key, float]] = field(default_factory=dict[str, dict[Key, float]])
    """Keys that are due, with the time since when, in that order; by namespace, in the order of their turns."""
    _due: dict[Key, float] = field(default_factory=dict[Key, float])
    """Keys that are due later, with their due times."""
    _heap: list[tuple[float, Key]] = field(default_factory=list[tuple[float, Key]])
    """The entries of `_due`, by time. An entry whose time is not the key's due time is outdated."""
    _working: dict[Key, float] = field(default_factory=dict[Key, float])
    """Keys that are being worked on, with the time since when."""
    _again: dict[Key, float] = field(default_factory=dict[Key, float])
    """Keys that are being worked on and became due again, with the time since when."""
    _held: dict[Key, float] = field(default_factory=dict[Key, float])
    """Keys that may not be taken before a time."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: Key, *, after: float = 0.0) -> None:
        """Make `key` due in `after` seconds at the latest; if it is held, at the end of its hold."""
        now = self.clock()
        if not self._is_ready(key):
            self._schedule(key, now + max(after, 0.0), now)
            self._changed.set()

    def take(self) -> Key | None:
        """Return the key that has been due longest in the namespace whose turn it is, and mark it as being worked on.
        None: no key may be taken."""
        now = self.clock()
        self._promote(now)
        namespace = next(self._turns(), None)
        if namespace is None:
            return None
        keys = self._ready.pop(namespace)
        key = next(iter(keys))
        del keys[key]
        if keys:
            self._ready[namespace] = keys  # behind all others
        self._working[key] = now
        return key

    def done(self, key: Key, *, hold: float = 0.0) -> None:
        """Mark the work on `key` as finished. It is not taken again for `hold` seconds, at least for `spacing`."""
        now = self.clock()
        self._promote(now)
        del self._working[key]
        self._held = {other: until for other, until in self._held.items() if until > now}
        self._held[key] = now + max(hold, self.spacing)
        waiting = [due for due in (self._again.pop(key, None), self._due.pop(key, None)) if due is not None]
        if waiting:
            self._schedule(key, min(waiting), now)
        self._changed.set()

    async def get(self) -> Key:
        """Take a key; wait until there is one."""
        while (key := self.take()) is None:
            self._changed.clear()
            try:
                async with asyncio.timeout(self.wait()):
                    await self._changed.wait()
            except TimeoutError:
                pass  # a key is due now
        return key

    def wait(self) -> float | None:
        """Return the seconds until a key is due; None: no key becomes due unless one is added."""
        now = self.clock()
        self._promote(now)
        if next(self._turns(), None) is not None:
            return 0.0
        return max(self._heap[0][0] - now, 0.0) if self._heap else None

    @property
    def depth(self) -> int:
        """The number of keys that are due and not being worked on."""
        self._promote(self.clock())
        return sum(len(keys) for keys in self._ready.values()) + len(self._again)

    @property
    def oldest(self) -> float:
        """Seconds since the oldest key became due, or since its work began if that is longer; 0: there is no key."""
        now = self.clock()
        self._promote(now)
        ready = (next(iter(keys.values())) for keys in self._ready.values())
        since = [*ready, *self._again.values(), *self._working.values()]
        return max((now - one for one in since), default=0.0)

    def __contains__(self, key: object) -> bool:
        """Return whether the key will be taken without being added again."""
        return isinstance(key, Key) and (self._is_ready(key) or key in self._due or key in self._again)

    def _is_ready(self, key: Key) -> bool:
        return key in self._ready.get(key.namespace, ())

    def _turns(self) -> Iterator[str]:
        """Yield the namespaces with a key that may be taken, the next one first."""
        at_work = Counter(key.namespace for key in self._working)
        return (one for one in self._ready if self.most is None or at_work[one] < self.most)

    def _schedule(self, key: Key, due: float, now: float) -> None:
        due = max(due, self._held.get(key, due))
        if due <= now:
            self._due.pop(key, None)
            self._become_due(key, due)
        elif due < self._due.get(key, float("inf")):
            self._later(key, due)

    def _later(self, key: Key, due: float) -> None:
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [entry for entry in self._heap if self._due.get(entry[1]) == entry[0]]
            heapq.heapify(self._heap)

    def _become_due(self, key: Key, since: float) -> None:
        if key in self._working:
            self._again.setdefault(key, since)
        else:
            self._held.pop(key, None)
            self._ready.setdefault(key.namespace, {}).setdefault(key, since)

    def _promote(self, now: float) -> None:
        while self._heap:
            due, key = self._heap[0]
            current = self._due.get(key)
            if current == due and due > now:
                return
            heapq.heappop(self._heap)
            if current == due:
                del self._due[key]
                self._become_due(key, due)
