"""Reads a training's state from NATS: whether its streams exist, and the last progress of its controller."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, NotFoundError

from toolorchestra.bus.streams import WORKERS, StreamNames, StreamSettings, consumer_configs
from toolorchestra.contract.progress import PROGRESS_KEY
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.messaging.servers import MessagingPending, MessagingUnreachable, NatsServers
from toolorchestra_operator.trainings.observed import Messaging


@dataclass(frozen=True)
class NatsLook:
    """Reads only. If a server does not answer, the result says so; it raises no exception, and nobody waits."""

    servers: NatsServers = field(default_factory=NatsServers)

    async def look(self, url: str, uid: str, *, whose: Key | None = None) -> Messaging:
        """Return whether every consumer with its stream, and every bucket, exists; and the progress. `whose`: the
        training to reconcile when a server that did not answer answers."""

        async def question(js: JetStreamContext) -> Messaging:
            return await _seen(js, uid)

        try:
            return await self.servers.ask(url, question, whose=whose)
        except MessagingPending as error:
            return Messaging(pending=str(error))
        except MessagingUnreachable as error:
            return Messaging(error=str(error))


async def _seen(js: JetStreamContext, uid: str) -> Messaging:
    leases = await _leases(js, uid)
    there = [await _is_there(question) for question in _questions(js, uid)]
    ready = all(there)
    progress = _object(await _value(js, uid, PROGRESS_KEY)) if ready else {}
    return Messaging(ready=ready, partial=any(there) and not ready, leases=leases, progress=progress)


async def _value(js: JetStreamContext, uid: str, key: str) -> bytes | None:
    """Return the value of a key in the training's bucket; None: it was never set."""
    try:
        bucket = await js.key_value(StreamNames(uid).state)
        return (await bucket.get(key)).value
    except (KeyNotFoundError, NotFoundError):
        return None


def _object(body: bytes | None) -> dict[str, Any]:
    """Return the JSON object; empty for anything else that was written there."""
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


async def _leases(js: JetStreamContext, uid: str) -> int | None:
    try:
        leases: int | None = (await js.consumer_info(StreamNames(uid).tasks, WORKERS)).config.max_ack_pending
    except NotFoundError:
        return None
    return leases


def _questions(js: JetStreamContext, uid: str) -> Iterator[Awaitable[Any]]:
    """Yield one request for each consumer (and with it its stream), and for each bucket."""
    names = StreamNames(uid)
    for stream, consumer in consumer_configs(uid, StreamSettings()):
        yield js.consumer_info(stream, consumer.durable_name or "")
    for bucket in (f"KV_{names.state}", f"OBJ_{names.payloads}"):
        yield js.stream_info(bucket)


async def _is_there(question: Awaitable[Any]) -> bool:
    try:
        await question
    except NotFoundError:
        return False
    return True
