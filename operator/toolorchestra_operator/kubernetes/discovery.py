"""Which kinds the API server has. Other operators add and remove kinds, and the watches see only those that existed at
their start, so the process restarts when the kinds change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from toolorchestra.kube.errors import ApiError
from toolorchestra_operator.kubernetes.kinds import POOLS, RAY_JOB, TRAININGS

_log = logging.getLogger(__name__)

Served = frozenset[tuple[str, str]]
"""(apiVersion, kind)."""

KUEUE_WORKLOADS: Final = (("kueue.x-k8s.io/v1beta2", "Workload"), ("kueue.x-k8s.io/v1beta1", "Workload"))
"""The newest version first; a Kueue serves one or both."""
INTERESTING: Final = (TRAININGS, POOLS, RAY_JOB, *KUEUE_WORKLOADS)


class Asks(Protocol):
    """The part of `ApiServer` that discovery needs."""

    async def served(self, api_version: str, kind: str) -> bool: ...


@dataclass(frozen=True)
class Discovery:
    """Asks for the served kinds. `connect` opens a new connection each time, because an adapter caches them."""

    connect: Callable[[], Awaitable[AbstractAsyncContextManager[Asks]]]
    interval: float = 60.0

    async def look(self) -> Served:
        """Return what is served now. ApiError: the server does not answer."""
        async with await self.connect() as api:
            return frozenset([one for one in INTERESTING if await api.served(*one)])

    async def first(self) -> Served:
        """Return what is served, as soon as the server answers."""
        while True:
            try:
                return await self.look()
            except ApiError as error:
                _log.warning("waiting for the API server: %s", error)
                await asyncio.sleep(min(2.0, self.interval))

    async def changed(self, known: Served) -> Served:
        """Return when something else is served, twice in a row: a starting server serves fewer kinds for a moment."""
        last = known
        while True:
            await asyncio.sleep(self.interval)
            try:
                seen = await self.look()
            except ApiError as error:
                _log.info("the served kinds are unknown: %s", error)
                continue
            if seen == last != known:
                return seen
            last = seen


def words(before: Served, after: Served) -> str:
    """Return the difference as text."""
    said = [f"{kind} ({api_version}) was added" for api_version, kind in sorted(after - before)]
    said += [f"{kind} ({api_version}) was removed" for api_version, kind in sorted(before - after)]
    return ", ".join(said)
