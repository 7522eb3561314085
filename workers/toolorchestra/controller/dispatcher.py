"""Dispatches on their way out: into the journal, on disk, then published, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from toolorchestra.controller.instances import Instances
from toolorchestra.controller.monitoring.episode_spans import EpisodeSpans
from toolorchestra.controller.outbox import Outbox
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.rollout.identity import Dispatch

PUBLISHES = 64
"""Orders on their way to the bus at a time."""


@dataclass
class Dispatcher:
    """Of one incarnation's training."""

    journalled: JournalledLedger
    instances: Instances
    outbox: Outbox
    spans: EpisodeSpans

    async def flush(self) -> None:
        """Return when all that is in the journal by now is on disk."""
        await asyncio.to_thread(self.journalled.flush)

    async def dispatch(self, dispatches: list[Dispatch]) -> None:
        """Publish what the ledger has just decided; nothing where that is nothing."""
        if dispatches:
            await self.flush()
            await self.send(dispatches)

    async def send(self, dispatches: Iterable[Dispatch]) -> None:
        """Publish dispatches that are in the journal, several at a time: every publish waits for its
        acknowledgement."""
        for some in batched(dispatches, PUBLISHES):
            await asyncio.gather(*(self._submit(dispatch) for dispatch in some))

    async def _submit(self, dispatch: Dispatch) -> None:
        order = self.instances.order(dispatch, allowance=self.journalled.ledger.limit)
        await self.outbox.send(order, headers=self.spans.headers(dispatch, task=order.task.id))


def batched(items: Iterable[Dispatch], size: int) -> Iterator[list[Dispatch]]:
    """Runs of at most `size` items, in order (itertools.batched is of Python 3.12)."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
