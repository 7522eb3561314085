"""Removes streams, with their consumers, and buckets whose training no longer exists.

They remain if a training was deleted without its operator: its finalizer was removed by hand, NATS was away for longer
than a deletion waits, or it was told not to wait.

Invariants: only streams are removed that an operator of this cluster marked, for a training of a namespace that this
operator watches, if the API server says that the training is gone, or that another one has its name. Streams without a
mark, or of another cluster, are never removed; nor is anything under the short UID of an existing training.
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
    """The part of `NatsStreams` that the sweep needs."""

    async def metadata(self, *, url: str) -> Mapping[str, Mapping[str, str]]: ...

    async def remove(self, *, url: str, uid: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class StreamSweep:
    """One sweep of every known NATS server. `namespaces` empty: the whole cluster."""

    find: Callable[[Ref], Awaitable[Manifest | None]]
    """Returns a live object; None: it does not exist."""
    streams: MarkedStreams
    cluster: str
    namespaces: tuple[str, ...] = ()
    nats_url: str | None = None
    """The NATS server of trainings that name none."""

    async def __call__(self, parents: Sequence[Manifest]) -> None:
        """Sweep. `parents` are all trainings that existed a moment ago."""
        trainings = [one for one in parents if one["kind"] == TRAININGS[1]]
        urls = {self.nats_url, *map(nats_url_of, trainings)} - {None}
        living = frozenset(TrainingNames.of(one) for one in trainings)
        # Concurrently: a slow server does not delay the others.
        await asyncio.gather(*(self._swept(url, living) for url in sorted(filter(None, urls))))

    async def _swept(self, url: str, living: frozenset[TrainingNames]) -> None:
        try:
            await self._sweep(url, living)
        except (MessagingUnreachable, ApiError) as error:
            _log.warning("the search for orphaned streams did not finish: %s", error)

    async def _sweep(self, url: str, living: frozenset[TrainingNames]) -> None:
        found = await self.streams.metadata(url=url)
        for owner in suspects(found, living=living, cluster=self.cluster, namespaces=self.namespaces):
            # A training may have been created since the list: the API server decides.
            names = owner.names
            live = await self.find(Ref(*TRAININGS, names.namespace, names.name))
            if live is not None and live["metadata"]["uid"] == names.uid:
                continue
            _log.info("removing the streams of %s/%s (%s), which is deleted", names.namespace, names.name, names.uid)
            await self.streams.remove(url=url, uid=names.short_uid)


def suspects(
    streams: Mapping[str, Mapping[str, str]],
    *,
    living: frozenset[TrainingNames],
    cluster: str,
    namespaces: Sequence[str],
) -> tuple[Owner, ...]:
    """Return the owners of streams that do not exist any more; `streams` are names with metadata."""
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
