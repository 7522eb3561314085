"""Which kinds the API server has: those that others bring come and go, and the watches see only what was there at their
start, so the process starts again when they do."""

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
"""The newest first; a Kueue serves one or both."""
INTERESTING: Final = (TRAININGS, POOLS, RAY_JOB, *KUEUE_WORKLOADS)


class Asks(Protocol):
    """What it needs of `ApiServer`, which has it."""

    async def served(self, api_version: str, kind: str) -> bool: ...


@dataclass(frozen=True)
class Discovery:
    """`connect` opens a connection for each look: an adapter remembers what was served."""

    connect: Callable[[], Awaitable[AbstractAsyncContextManager[Asks]]]
    interval: float = 60.0

    async def look(self) -> Served:
        """What is served now. ApiError: the server does not say."""
        async with await self.connect() as api:
            return frozenset([one for one in INTERESTING if await api.served(*one)])

    async def first(self) -> Served:
        """What is served, as soon as the server says."""
        while True:
            try:
                return await self.look()
            except ApiError as error:
                _log.warning("waiting for the API server: %s", error)
                await asyncio.sleep(min(2.0, self.interval))

    async def changed(self, known: Served) -> Served:
        """Return when something else is served, twice in a row: a server that starts serves less for a moment."""
        last = known
        while True:
            await asyncio.sleep(self.interval)
            try:
                seen = await self.look()
            except ApiError as error:
                _log.info("what is served is not known: %s", error)
                continue
            if seen == last != known:
                return seen
            last = seen


def words(before: Served, after: Served) -> str:
    """The difference."""
    said = [f"{kind} ({api_version}) has come" for api_version, kind in sorted(after - before)]
    said += [f"{kind} ({api_version}) is gone" for api_version, kind in sorted(before - after)]
    return ", ".join(said)
