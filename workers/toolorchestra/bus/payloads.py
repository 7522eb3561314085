"""Stores bodies that are too large for a message in the training's object bucket. A header has their name and digest.

Invariant: a body is read exactly as it was sent, or `PayloadDamaged` says why not. Each sending has its own object, so
two workers' results of one dispatch never overwrite each other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.object_store import ObjectStore
from nats.nuid import NUID

from toolorchestra.bus.connection import Connection
from toolorchestra.bus.errors import BusError

PAYLOAD_HEADER = "To-Payload"
INLINE_BYTES = 512 * 1024
"""Larger bodies go into the bucket; the server's own limit for a message is 1 MB."""
_BATCH = 16
_ATTEMPTS = 3


class PayloadDamaged(BusError):
    """The object is missing, incomplete or different from what was sent."""


class Payloads:
    """The bucket `name` of one training."""

    def __init__(self, connection: Connection, *, name: str) -> None:
        self._connection, self._name = connection, name
        self._nuid = NUID()
        self._store: ObjectStore | None = None

    async def stow(self, id_: str, body: bytes) -> str:
        """Store `body`, and return the header that names it."""
        if self._store is None:
            self._store = await self._connection.js.object_store(self._name)
        name = f"{id_}/{self._nuid.next().decode()}"
        info = await self._store.put(name, body)
        digest = hashlib.sha256(body).hexdigest()
        return json.dumps({"name": name, "nuid": info.nuid, "chunks": info.chunks, "sha256": digest})

    async def fetch(self, header: str) -> bytes:
        """Return the body that `stow` stored. Raises PayloadDamaged, or a transient error of the connection."""
        pointer = _parse(header)
        damage = ""
        for _ in range(_ATTEMPTS):
            try:
                body = await self._read(nuid=pointer["nuid"], chunks=int(pointer["chunks"]))
            except (TimeoutError, nats.errors.TimeoutError):
                damage = "chunks are missing"
                continue
            if hashlib.sha256(body).hexdigest() == pointer["sha256"]:
                return body
            damage = "its digest does not match"
        raise PayloadDamaged(f"payload {pointer['name']}: {damage}")

    async def _read(self, *, nuid: str, chunks: int) -> bytes:
        js, stream = self._connection.js, f"OBJ_{self._name}"
        once = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=30.0)
        pull = await js.pull_subscribe(f"$O.{self._name}.C.{nuid}", stream=stream, config=once)
        try:
            parts: list[bytes] = []
            while len(parts) < chunks:
                batch = min(_BATCH, chunks - len(parts))
                messages = await pull.fetch(batch, timeout=self._connection.timeouts.request)
                parts += [msg.data for msg in messages]
            return b"".join(parts)
        finally:
            await pull.unsubscribe()
            if once.name is not None:
                await js.delete_consumer(stream, once.name)

    async def remove(self, header: str) -> None:
        """Remove the object with all its chunks. (ObjectStore.delete would keep a marker for ever.)"""
        pointer = _parse(header)
        encoded = base64.urlsafe_b64encode(pointer["name"].encode()).decode()
        for subject in (f"$O.{self._name}.C.{pointer['nuid']}", f"$O.{self._name}.M.{encoded}"):
            await self._connection.js.purge_stream(f"OBJ_{self._name}", subject=subject)


def _parse(header: str) -> Mapping[str, str]:
    try:
        pointer: dict[str, str] = json.loads(header)
        return {key: pointer[key] for key in ("name", "nuid", "chunks", "sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise PayloadDamaged(f"payload header {header!r}: {error!r}") from error
