"""Issues on their way out: into the journal, on disk, then published, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from toolorchestra.controller.instances import World
from toolorchestra.controller.monitoring.episode_spans import EpisodeSpans
from toolorchestra.controller.outbox import Outbox
from toolorchestra.ledger.journalled import Bookkeeper
from toolorchestra.rollout.identity import Issue

PUBLISHES = 64
"""Orders on their way to the bus at a time."""


@dataclass
class Dispatch:
    """Of one incarnation's training."""

    books: Bookkeeper
    world: World
    outbox: Outbox
    spans: EpisodeSpans

    async def flush(self) -> None:
        """Return when all that is in the journal by now is on disk."""
        await asyncio.to_thread(self.books.flush)

    async def issue(self, issues: list[Issue]) -> None:
        """Publish what the books have just decided; nothing where that is nothing."""
        if issues:
            await self.flush()
            await self.send(issues)

    async def send(self, issues: Iterable[Issue]) -> None:
        """Publish issues that are in the journal, several at a time: every publish waits for its acknowledgement."""
        for some in batched(issues, PUBLISHES):
            await asyncio.gather(*(self._submit(issue) for issue in some))

    async def _submit(self, issue: Issue) -> None:
        order = self.world.order(issue, allowance=self.books.ledger.limit)
        await self.outbox.send(order, headers=self.spans.headers(issue, task=order.task.id))


def batched(items: Iterable[Issue], size: int) -> Iterator[list[Issue]]:
    """Runs of at most `size` items, in order (itertools.batched is of Python 3.12)."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
