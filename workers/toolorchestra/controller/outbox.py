"""Orders on their way to the bus, and back from it when their issues die.

Invariants: an issue that is dead is not published; one that dies while it is published, or later, is taken off the bus;
what no worker ever got releases its reservation, anything else keeps it for `patience` seconds at most. That a bill is
waited for is in the journal before the bus forgets the task: a kill in between must not make it free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from toolorchestra.bus.protocol import RolloutBus, Withdrawn
from toolorchestra.controller.ports import Wire
from toolorchestra.ledger.journalled import Bookkeeper
from toolorchestra.rollout.identity import Issue
from toolorchestra.rollout.order import Order

BOOKS_KEY = "books"
"""The incarnation that published on this bus last: only of its orders does the bus know all."""


@dataclass
class Outbox:
    """`live` says whether an issue still is."""

    wire: Wire
    books: Bookkeeper
    live: Callable[[Issue], bool]
    patience: float
    """Seconds after which no bill of a dead issue is expected any more: what a sending can take at most."""
    _sending: set[Issue] = field(default_factory=set[Issue])
    _fsyncing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _next_fsync: asyncio.Task[None] | None = None

    async def journalled(self) -> None:
        """Return when all that is in the journal by now is on disk; callers at one time share an fsync."""
        if self._next_fsync is None:
            self._next_fsync = asyncio.create_task(self._fsync())
        await asyncio.shield(self._next_fsync)

    async def _fsync(self) -> None:
        async with self._fsyncing:
            self._next_fsync = None
            await asyncio.to_thread(self.books.flush)

    async def send(self, order: Order, *, headers: Mapping[str, str] | None = None) -> None:
        """Publish the order of an issue that is in the journal; waits as long as the bus does not take it."""
        issue = Issue.parse(order.issue)
        if not self.live(issue):
            self.books.release([order.issue])
            return
        self._sending.add(issue)
        try:
            await self.wire.submit(order, headers=headers)
        finally:
            self._sending.discard(issue)
        if not self.live(issue):
            await self.withdraw([issue])

    async def withdraw(self, issues: Iterable[Issue]) -> None:
        """Take dead issues off the bus. Those that are being published follow when they are."""
        ids = [str(issue) for issue in issues if issue not in self._sending]
        if not ids:
            return
        self.books.await_bills(ids, until=time.time() + self.patience)
        await self.journalled()
        taken = await self.wire.withdraw(ids)
        self.books.release(sorted(taken.unseen))

    async def lost(self, issues: Iterable[Issue]) -> tuple[list[Issue], list[Issue]]:
        """Of issues without a result: those that a worker had, and those that are still queued."""
        out = {issue for issue in issues if issue not in self._sending}
        unseen = await self.wire.unseen(sorted(str(issue) for issue in out)) if out else frozenset[str]()
        queued = [issue for issue in issues if issue not in out or str(issue) in unseen]
        return [issue for issue in issues if issue not in queued], queued


async def reckon(bus: RolloutBus, books: Bookkeeper, *, patience: float) -> None:
    """At the start of an incarnation: take what earlier ones left off the bus, and say what becomes of the money that
    they had reserved."""
    unbilled = books.unbilled()
    known = await bus.get(BOOKS_KEY) == str(books.ledger.incarnation - 1).encode()
    taken = await _empty(bus, books, patience=patience)
    if known:
        # What it does not have was never published: a result is stored before its task is settled.
        there = taken.seen | await bus.answered()
        books.release([id_ for id_ in unbilled if id_ not in there])
        books.flush()
    await bus.put(BOOKS_KEY, str(books.ledger.incarnation).encode())


async def empty(bus: RolloutBus, books: Bookkeeper, *, patience: float) -> None:
    """At the end of an incarnation that goes on later: take what is queued off the bus."""
    await _empty(bus, books, patience=patience)


async def _empty(bus: RolloutBus, books: Bookkeeper, *, patience: float) -> Withdrawn:
    books.await_bills(books.unbilled(), until=time.time() + patience)
    books.flush()
    taken = await bus.drain()
    books.release(sorted(taken.unseen))
    books.flush()
    return taken
