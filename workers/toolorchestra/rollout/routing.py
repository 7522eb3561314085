"""The training's routing state in its key-value bucket, and a worker's engine pool that follows it."""

from __future__ import annotations

import asyncio
import json
import logging

from toolorchestra.bus.protocol import BusUnavailable, KeyValue
from toolorchestra.policy.pool import EnginePool, EngineRecord

ENGINES_KEY = "engines"
"""`{"engines": [{"url", "version", "routable"}, …], "paused": bool}`; written by the controller alone."""

RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


def apply_routing(value: bytes | None, *, pool: EnginePool) -> None:
    """Bring the pool to a published state; a deleted key means that there is no engine. ValueError on anything else."""
    state = json.loads(value) if value is not None else {}
    records = [EngineRecord.read(entry) for entry in state.get("engines", [])]
    pool.update(records, paused=bool(state.get("paused", False)))


async def follow_routing(bus: KeyValue, *, pool: EnginePool) -> None:
    """Keep the pool up to date until the bus is closed, however long a broker is away: a pool that nobody tells any
    more would wait for engines that are there. A value that cannot be read leaves the last good one."""
    while True:
        try:
            return await _follow(bus, pool=pool)
        except BusUnavailable as error:
            _log.warning("the key %r cannot be followed now: %s", ENGINES_KEY, error)
            await asyncio.sleep(RETRY_SECONDS)


async def _follow(bus: KeyValue, *, pool: EnginePool) -> None:
    async for change in bus.watch(ENGINES_KEY):
        try:
            apply_routing(change.value, pool=pool)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            _log.error("the key %r holds no routing state: %r; keeping the last one", ENGINES_KEY, error)
