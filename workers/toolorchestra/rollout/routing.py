"""The training's routing state in its key-value bucket, and the worker's engine pool that follows it."""

from __future__ import annotations

import asyncio
import json
import logging

from toolorchestra.bus.protocol import BusUnavailable, KeyValue
from toolorchestra.policy.pool import EnginePool, EngineRecord

ENGINES_KEY = "engines"
"""`{"engines": [{"url", "version", "routable"}, …], "paused": bool}`; only the controller writes it."""

RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


def apply_routing(value: bytes | None, *, pool: EnginePool) -> None:
    """Update the pool from a published state. A deleted key means that there is no engine. ValueError if invalid."""
    state = json.loads(value) if value is not None else {}
    records = [EngineRecord.read(entry) for entry in state.get("engines", [])]
    pool.update(records, paused=bool(state.get("paused", False)))


async def follow_routing(bus: KeyValue, *, pool: EnginePool) -> None:
    """Keep the pool up to date until the bus is closed, however long the broker is away.

    Without updates, the pool would wait for engines that are available. An unreadable value leaves the last valid
    state."""
    while True:
        try:
            return await _follow(bus, pool=pool)
        except BusUnavailable as error:
            _log.warning("the key %r cannot be watched now; trying again: %s", ENGINES_KEY, error)
            await asyncio.sleep(RETRY_SECONDS)


async def _follow(bus: KeyValue, *, pool: EnginePool) -> None:
    async for change in bus.watch(ENGINES_KEY):
        try:
            apply_routing(change.value, pool=pool)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            _log.error("the key %r holds no routing state; keeping the last one: %r", ENGINES_KEY, error)
