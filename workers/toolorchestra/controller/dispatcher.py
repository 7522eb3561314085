"""Sends dispatches: first they are in the journal on disk, then they are published, several at a time."""

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
"""How many orders are published at the same time."""


@dataclass
class Dispatcher:
    """Sends the training dispatches of one incarnation."""

    journalled: JournalledLedger
    instances: Instances
    outbox: Outbox
    spans: EpisodeSpans

    async def flush(self) -> None:
        """Return when everything that is in the journal now is on disk."""
        await asyncio.to_thread(self.journalled.flush)

    async def dispatch(self, dispatches: list[Dispatch]) -> None:
        """Flush the journal and publish these new dispatches; do nothing where there are none."""
        if dispatches:
            await self.flush()
            await self.send(dispatches)

    async def send(self, dispatches: Iterable[Dispatch]) -> None:
        """Publish dispatches that are on disk in the journal. Each publish waits for its acknowledgement."""
        for some in batched(dispatches, PUBLISHES):
            await asyncio.gather(*(self._submit(dispatch) for dispatch in some))

    async def _submit(self, dispatch: Dispatch) -> None:
        order = self.instances.order(dispatch, allowance=self.journalled.ledger.limit)
        await self.outbox.send(order, headers=self.spans.headers(dispatch, task=order.task.id))


def batched(items: Iterable[Dispatch], size: int) -> Iterator[list[Dispatch]]:
    """Yield lists of at most `size` items, in order (itertools.batched needs Python 3.12)."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
