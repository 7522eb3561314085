"""The queue of parents to look at: each key at most once in it, never at work twice, never lost.

Invariants
- A key that is added is taken at its due time or earlier, and after it was added. A look that comes earlier answers a
  later one too: who looks asks again (`requeue_after`), so only the earliest due time of a key is kept.
- A key that is at work is not taken again until it is done; added meanwhile, it is due once more right after.
- Between the end of one look and the start of the next lie at least `spacing` seconds, or what `done` was told to hold
  it back: no reconciler, and no storm of events, turns into a busy loop.
- Namespaces take turns, and none has more than `most` keys at work: what one of them has in the queue, or how long it
  is worked on, is nothing that another one waits for. Within a namespace keys are taken in the order in which they
  became due.
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
    """For one event loop. `clock` is monotonic, in seconds."""

    clock: Callable[[], float] = time.monotonic
    spacing: float = 0.1
    most: int | None = None
    """Keys of one namespace that may be at work at once; None: any number."""
    _ready: dict[str, dict[Key, float]] = field(default_factory=dict[str, dict[Key, float]])
    """Due, and since when, in the order of becoming due; by namespace, in the order of their turns."""
    _due: dict[Key, float] = field(default_factory=dict[Key, float])
    """Not due yet."""
    _heap: list[tuple[float, Key]] = field(default_factory=list[tuple[float, Key]])
    """`_due` by time. An entry whose time is not the key's is outdated."""
    _working: dict[Key, float] = field(default_factory=dict[Key, float])
    """At work, and since when."""
    _again: dict[Key, float] = field(default_factory=dict[Key, float])
    """At work, and due once more since."""
    _held: dict[Key, float] = field(default_factory=dict[Key, float])
    """Not to be taken before."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: Key, *, after: float = 0.0) -> None:
        """Look at `key` in `after` seconds at the latest (held back, as soon as it may be)."""
        now = self.clock()
        if not self._is_ready(key):
            self._schedule(key, now + max(after, 0.0), now)
            self._changed.set()

    def take(self) -> Key | None:
        """The key that has been due longest in the namespace whose turn it is, at work from now on; None: none may be
        taken."""
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
        """The look is over. It is not taken again for `hold` seconds, at least for `spacing`."""
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
        """`take`, waiting until there is one."""
        while (key := self.take()) is None:
            self._changed.clear()
            try:
                async with asyncio.timeout(self.wait()):
                    await self._changed.wait()
            except TimeoutError:
                pass  # something is due now
        return key

    def wait(self) -> float | None:
        """Seconds until something is due; None: nothing will be unless it is added."""
        now = self.clock()
        self._promote(now)
        if next(self._turns(), None) is not None:
            return 0.0
        return max(self._heap[0][0] - now, 0.0) if self._heap else None

    @property
    def depth(self) -> int:
        """Keys that are due and not at work."""
        self._promote(self.clock())
        return sum(len(keys) for keys in self._ready.values()) + len(self._again)

    @property
    def oldest(self) -> float:
        """Seconds for which the key that waits longest has been due, or has been at work if that is longer; 0: none."""
        now = self.clock()
        self._promote(now)
        ready = (next(iter(keys.values())) for keys in self._ready.values())
        since = [*ready, *self._again.values(), *self._working.values()]
        return max((now - one for one in since), default=0.0)

    def __contains__(self, key: object) -> bool:
        """Whether it will be taken without being added again."""
        return isinstance(key, Key) and (self._is_ready(key) or key in self._due or key in self._again)

    def _is_ready(self, key: Key) -> bool:
        return key in self._ready.get(key.namespace, ())

    def _turns(self) -> Iterator[str]:
        """Namespaces with a key that may be taken, the next one first."""
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
