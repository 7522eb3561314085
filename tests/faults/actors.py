"""Handles of engine actors that are reached over HTTP instead of Ray: same methods, same errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import aiohttp
import ray

from toolorchestra.engines.actor import EngineStatus
from toolorchestra.weights.snapshot import Snapshot


class _Method:
    """`handle.method.remote(…)`."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


class ActorHandle:
    """One engine's actor at `url`."""

    def __init__(self, url: str, *, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session
        self.load = _Method(self._load)
        self.adopt = _Method(self._adopt)
        self.wait_status = _Method(self._wait_status)
        self.status = _Method(self._status)
        self.stop = _Method(self._status)

    async def _load(self, snapshot: Snapshot) -> EngineStatus:
        return await self._call("load", snapshot=asdict(snapshot))

    async def _adopt(self, snapshot: Snapshot) -> EngineStatus:
        return await self._call("adopt", snapshot=asdict(snapshot))

    async def _wait_status(self, seen: EngineStatus, timeout: float) -> EngineStatus:
        return await self._call("wait_status", seen=asdict(seen), timeout=timeout)

    async def _status(self) -> EngineStatus:
        return await self._call("status")

    async def _call(self, method: str, **body: Any) -> EngineStatus:
        try:
            async with self._session.post(f"{self._url}/actor/{method}", json=body) as response:
                return EngineStatus(**await response.json())
        except aiohttp.ClientError as error:
            raise ray.exceptions.RayActorError from error
