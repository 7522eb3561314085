"""Orders on their way to the bus, and back from it when their dispatches die.

Invariants: a dispatch that is dead is not published; one that dies while it is published, or later, is taken off the
bus; what no worker ever got releases its reservation, anything else keeps it for `patience` seconds at most. That a
bill is waited for is in the journal before the bus forgets the task: a kill in between must not make it free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from toolorchestra.bus.protocol import RolloutBus, Withdrawn
from toolorchestra.controller.ports import Wire
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.order import Order

BOOKS_KEY = "books"
"""The incarnation that published on this bus last: only of its orders does the bus know all."""


@dataclass
class Outbox:
    """`live` says whether a dispatch still is."""

    wire: Wire
    journalled: JournalledLedger
    live: Callable[[Dispatch], bool]
    patience: float
    """Seconds after which no bill of a dead dispatch is expected any more: what a sending can take at most."""
    _sending: set[Dispatch] = field(default_factory=set[Dispatch])
    _fsyncing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _next_fsync: asyncio.Task[None] | None = None

    async def durable(self) -> None:
        """Return when all that is in the journal by now is on disk; callers at one time share an fsync."""
        if self._next_fsync is None:
            self._next_fsync = asyncio.create_task(self._fsync())
        await asyncio.shield(self._next_fsync)

    async def _fsync(self) -> None:
        async with self._fsyncing:
            self._next_fsync = None
            await asyncio.to_thread(self.journalled.flush)

    async def send(self, order: Order, *, headers: Mapping[str, str] | None = None) -> None:
        """Publish the order of a dispatch that is in the journal; waits as long as the bus does not take it."""
        dispatch = Dispatch.parse(order.issue)
        if not self.live(dispatch):
            self.journalled.release([order.issue])
            return
        self._sending.add(dispatch)
        try:
            await self.wire.submit(order, headers=headers)
        finally:
            self._sending.discard(dispatch)
        if not self.live(dispatch):
            await self.withdraw([dispatch])

    async def withdraw(self, dispatches: Iterable[Dispatch]) -> None:
        """Take dead dispatches off the bus. Those that are being published follow when they are."""
        ids = [str(dispatch) for dispatch in dispatches if dispatch not in self._sending]
        if not ids:
            return
        self.journalled.await_bills(ids, until=time.time() + self.patience)
        await self.durable()
        taken = await self.wire.withdraw(ids)
        self.journalled.release(sorted(taken.unseen))

    async def lost(self, dispatches: Iterable[Dispatch]) -> tuple[list[Dispatch], list[Dispatch]]:
        """Of dispatches without a result: those that a worker had, and those that are still queued."""
        out = {dispatch for dispatch in dispatches if dispatch not in self._sending}
        unseen = await self.wire.unseen(sorted(str(dispatch) for dispatch in out)) if out else frozenset[str]()
        queued = [dispatch for dispatch in dispatches if dispatch not in out or str(dispatch) in unseen]
        return [dispatch for dispatch in dispatches if dispatch not in queued], queued


async def reckon(bus: RolloutBus, journalled: JournalledLedger, *, patience: float) -> None:
    """At the start of an incarnation: take what earlier ones left off the bus, and say what becomes of the money that
    they had reserved."""
    unbilled = journalled.unbilled()
    known = await bus.get(BOOKS_KEY) == str(journalled.ledger.incarnation - 1).encode()
    taken = await _empty(bus, journalled, patience=patience)
    if known:
        # What it does not have was never published: a result is stored before its task is settled.
        there = taken.seen | await bus.answered()
        journalled.release([id_ for id_ in unbilled if id_ not in there])
        journalled.flush()
    await bus.put(BOOKS_KEY, str(journalled.ledger.incarnation).encode())


async def empty(bus: RolloutBus, journalled: JournalledLedger, *, patience: float) -> None:
    """At the end of an incarnation that goes on later: take what is queued off the bus."""
    await _empty(bus, journalled, patience=patience)


async def _empty(bus: RolloutBus, journalled: JournalledLedger, *, patience: float) -> Withdrawn:
    journalled.await_bills(journalled.unbilled(), until=time.time() + patience)
    journalled.flush()
    taken = await bus.drain()
    journalled.release(sorted(taken.unseen))
    journalled.flush()
    return taken
