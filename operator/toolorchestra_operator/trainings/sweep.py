"""Removes streams, with their consumers, and buckets whose training is no more.

They are left where a training went without its operator: its finalizer was taken away by hand, NATS was away for longer
than a deletion waits, or it was asked not to wait.

Invariants: what is removed was marked by an operator of this cluster, for a training of a namespace that this operator
looks after, of which the API server says that it is gone, or that another one has its name. What is not marked, or not
for this cluster, is never touched; nor is anything under the short UID of a training that is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolorchestra.kube.errors import ApiError
from toolorchestra_operator.kubernetes.kinds import TRAININGS
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.messaging.servers import MessagingUnreachable
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.stream_marks import Owner
from toolorchestra_operator.trainings.terms import nats_url_of

_log = logging.getLogger(__name__)


class MarkedStreams(Protocol):
    """What it needs of `NatsStreams`, which has it."""

    async def metadata(self, *, url: str) -> Mapping[str, Mapping[str, str]]: ...

    async def remove(self, *, url: str, uid: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class StreamSweep:
    """One sweep of every NATS server that is known. `namespaces` empty: all of the cluster."""

    find: Callable[[Ref], Awaitable[Manifest | None]]
    """An object, live; None: there is none."""
    streams: MarkedStreams
    cluster: str
    namespaces: tuple[str, ...] = ()
    nats_url: str | None = None
    """NATS of trainings that name none."""

    async def __call__(self, parents: Sequence[Manifest]) -> None:
        """`parents` are all that were there a moment ago."""
        trainings = [one for one in parents if one["kind"] == TRAININGS[1]]
        urls = {self.nats_url, *map(nats_url_of, trainings)} - {None}
        living = frozenset(TrainingNames.of(one) for one in trainings)
        # Side by side: one that takes its time to answer keeps no other training's streams from being looked at.
        await asyncio.gather(*(self._swept(url, living) for url in sorted(filter(None, urls))))

    async def _swept(self, url: str, living: frozenset[TrainingNames]) -> None:
        try:
            await self._sweep(url, living)
        except (MessagingUnreachable, ApiError) as error:
            _log.warning("orphaned streams were not looked for to the end: %s", error)

    async def _sweep(self, url: str, living: frozenset[TrainingNames]) -> None:
        found = await self.streams.metadata(url=url)
        for owner in suspects(found, living=living, cluster=self.cluster, namespaces=self.namespaces):
            # A training may have been made since they were listed: the API server has the last word.
            names = owner.names
            live = await self.find(Ref(*TRAININGS, names.namespace, names.name))
            if live is not None and live["metadata"]["uid"] == names.uid:
                continue
            _log.info("removing the streams of %s/%s (%s), which is gone", names.namespace, names.name, names.uid)
            await self.streams.remove(url=url, uid=names.short_uid)


def suspects(
    streams: Mapping[str, Mapping[str, str]],
    *,
    living: frozenset[TrainingNames],
    cluster: str,
    namespaces: Sequence[str],
) -> tuple[Owner, ...]:
    """Owners of streams that are none of the living; `streams` are names with metadata."""
    if not cluster:
        return ()
    there = {names.short_uid for names in living}
    owners = {owner for name, metadata in streams.items() if (owner := Owner.of(name, metadata)) is not None}
    return tuple(
        owner
        for owner in sorted(owners)
        if owner.cluster == cluster
        and (not namespaces or owner.names.namespace in namespaces)
        and owner.names.short_uid not in there
    )
