"""The slow reconcile of everything: it finds what no event reported, and what has lost its parent.

Invariant: it only puts keys on the queue; a list that fails is repeated, and never ends it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol

from toolorchestra.kube.errors import ApiError
from toolorchestra_operator.kubernetes.kinds import POOLS, TRAININGS
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.runtime.key_queue import KeyQueue
from toolorchestra_operator.runtime.metrics import Meter
from toolorchestra_operator.runtime.parents import key_of

_log = logging.getLogger(__name__)
_SPREAD: Final = 0.1
"""Share of the interval over which the keys of one resync are spread, and by which the interval itself varies."""
_RETRY_SECONDS: Final = 15.0

Sweep = Callable[[Sequence[Manifest]], Awaitable[None]]
"""Removes what deleted parents left. The argument is the list of all parents in the watched namespaces."""


class Lists(Protocol):
    """The part of `ApiServer` that the resync needs."""

    async def list(self, api_version: str, kind: str, *, namespace: str = "") -> list[dict[str, Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Resync:
    """The periodic resync. `namespaces` empty: the whole cluster. `interval` in seconds."""

    api: Lists
    queue: KeyQueue
    meter: Meter
    namespaces: tuple[str, ...] = ()
    interval: float = 300.0
    sweeps: Sequence[Sweep] = field(default_factory=tuple[Sweep, ...])
    draw: Callable[[], float] = random.random

    async def run(self) -> NoReturn:
        """Resync once every interval, first after one interval: at the start the watches list everything."""
        wait = self._wait()
        while True:
            await asyncio.sleep(wait)
            listed = await self.once()
            wait = self._wait() if listed else min(_RETRY_SECONDS, self.interval)

    async def once(self) -> bool:
        """List all parents, put them on the queue, and sweep. False: they could not be listed."""
        try:
            parents = await self._parents()
        except (ApiError, TimeoutError) as error:
            self.meter.resynced(ok=False)
            _log.warning("the resync could not list everything: %s", error)
            return False
        for parent in parents:
            if (key := key_of(parent)) is not None:
                self.queue.add(key, after=self.draw() * _SPREAD * self.interval)
        for sweep in self.sweeps:
            try:
                await sweep(parents)
            except Exception:
                # The next sweep removes what this one left; the resync itself must continue.
                _log.exception("a sweep failed")
        self.meter.resynced(ok=True)
        return True

    def _wait(self) -> float:
        return self.interval * (1.0 + _SPREAD * (2.0 * self.draw() - 1.0))

    async def _parents(self) -> list[dict[str, Any]]:
        found = []
        for namespace in self.namespaces or ("",):
            for api_version, kind in (TRAININGS, POOLS):
                found += await self.api.list(api_version, kind, namespace=namespace)
        return found
