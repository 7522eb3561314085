"""The training's shared state on a JetStream key-value bucket: engines and their versions, progress, pause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import nats.errors
from nats.js.errors import KeyNotFoundError, NotFoundError
from nats.js.kv import KeyValue

from toolorchestra.bus.connection import Connection
from toolorchestra.bus.protocol import BusGone, BusUnavailable, Change

_LOOK_UP = 1.0
"""Seconds without a change after which a watcher checks whether its connection was replaced."""


class State:
    """The shared state in the bucket `name`; see `toolorchestra.bus.protocol.KeyValue`."""

    def __init__(self, connection: Connection, *, name: str) -> None:
        self._connection, self._name = connection, name
        self._bucket: KeyValue | None = None

    async def bind(self) -> None:
        """Open the bucket. BusGone: it does not exist."""
        try:
            self._bucket = await self._connection.patiently("bind", lambda: self._connection.js.key_value(self._name))
        except NotFoundError as error:
            raise BusGone(f"the training's state bucket does not exist at {self._connection.url}") from error

    @property
    def _kv(self) -> KeyValue:
        if self._bucket is None:
            raise BusUnavailable("the state bucket was not bound")
        return self._bucket

    async def put(self, key: str, value: bytes) -> None:
        await self._connection.patiently(f"put {key}", lambda: self._kv.put(key, value))

    async def get(self, key: str) -> bytes | None:
        try:
            entry = await self._connection.patiently(f"get {key}", lambda: self._kv.get(key))
        except KeyNotFoundError:
            return None
        return entry.value or b""

    async def delete(self, key: str) -> None:
        await self._connection.patiently(f"delete {key}", lambda: self._kv.delete(key))

    async def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        pattern = f"{prefix}>" if not prefix or prefix.endswith(".") else prefix
        revisions: dict[str, int] = {}
        while not self._connection.client.is_closed:
            # A restarted broker has lost the watcher's consumer: make a new one, and skip revisions that were yielded.
            epoch = self._connection.epoch
            watcher = await self._connection.patiently(f"watch {prefix}", lambda: self._kv.watch(pattern))
            try:
                while epoch == self._connection.epoch and not self._connection.client.is_closed:
                    entry = await _next(watcher)
                    if entry is not None and (entry.revision or 0) > revisions.get(entry.key, 0):
                        revisions[entry.key] = entry.revision or 0
                        yield Change(key=entry.key, value=None if entry.operation else entry.value or b"")
            finally:
                if not self._connection.client.is_closed:
                    await watcher.stop()  # type: ignore[no-untyped-call]


async def _next(watcher: Any) -> KeyValue.Entry | None:
    """Return the next entry; None: no change for a while, or the end of the initial values."""
    try:
        entry: KeyValue.Entry | None = await watcher.updates(timeout=_LOOK_UP)
    except nats.errors.TimeoutError:
        return None
    return entry
