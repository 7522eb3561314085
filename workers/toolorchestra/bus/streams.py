"""The JetStream streams, consumers, buckets and subjects of one training. The operator or the local backend makes
them; workers and the controller only bind to them.

All names contain the training's short UID. So trainings in two namespaces, or before and after a delete and re-create,
never share a stream. This module needs only nats-py, and modules that the operator's image has.
TASKS is made first and removed last. So if any object of a training exists, its marks (`StreamSettings.marks`) do.

| what | name | holds |
| --- | --- | --- |
| stream, work queue | `TO_<uid>_TASKS` | `to.<uid>.tasks.<purpose>.<id>`; refuses instead of dropping (`discard=new`) |
| stream, work queue | `TO_<uid>_RESULTS` | `to.<uid>.results.<kind>.<id>` |
| stream, work queue | `TO_<uid>_DEAD` | `to.<uid>.dead.<id>` |
| stream, work queue | `TO_<uid>_ADVISORIES` | the server's advisory that the last delivery of a task expired |
| key-value bucket | `TO_<uid>_STATE` | engines, progress, pause, allowances |
| object bucket | `TO_<uid>_PAYLOADS` | bodies above 512 KB |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import BadRequestError, NotFoundError

WORKERS = "workers"
"""Durable consumer of TASKS, shared by all workers."""
CONTROLLER = "controller"
"""Durable consumer of RESULTS, DEAD and ADVISORIES."""

_UID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_STREAM_NAME_IN_USE = 10058


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Settings of a training's streams. Times in seconds."""

    replicas: int = 1
    """Copies of each stream: 1 on one machine, 3 in production."""
    ack_wait: float = 60.0
    """Time without a heartbeat of a worker after which its task is delivered again."""
    max_deliver: int = 3
    max_ack_pending: int = 1000
    """Most tasks leased at once by all workers: slots x 1.2."""
    max_tasks: int = 100_000
    """Limit of TASKS: a margin and an alarm, not the admission bound."""
    result_ack_wait: float = 30.0
    """Time after which the results of a dead controller are delivered to the next one."""
    duplicate_window: float = 600.0
    marks: tuple[tuple[str, str], ...] = ()
    """Metadata of the streams, which says to whom they belong."""


@dataclass(frozen=True)
class StreamNames:
    """Names and subjects of one training. ValueError: `uid` cannot be part of them."""

    uid: str

    def __post_init__(self) -> None:
        if not _UID.fullmatch(self.uid):
            raise ValueError(f"training uid {self.uid!r}: want 1 to 40 letters, digits, _ and -")

    @property
    def tasks(self) -> str:
        return f"TO_{self.uid}_TASKS"

    @property
    def results(self) -> str:
        return f"TO_{self.uid}_RESULTS"

    @property
    def dead(self) -> str:
        return f"TO_{self.uid}_DEAD"

    @property
    def advisories(self) -> str:
        return f"TO_{self.uid}_ADVISORIES"

    @property
    def state(self) -> str:
        return f"TO_{self.uid}_STATE"

    @property
    def payloads(self) -> str:
        return f"TO_{self.uid}_PAYLOADS"

    def task_subject(self, *, purpose: str, id_: str) -> str:
        return f"to.{self.uid}.tasks.{purpose}.{id_}"

    def result_subject(self, *, kind: str, id_: str) -> str:
        return f"to.{self.uid}.results.{kind}.{id_}"

    def result_parts(self, subject: str) -> tuple[str, str]:
        """Return kind and id of a message from its subject in RESULTS or DEAD. They are not validated."""
        stream, _, rest = subject.removeprefix(f"to.{self.uid}.").partition(".")
        if stream == "dead":
            return "dead", rest
        kind, _, id_ = rest.partition(".")
        return kind, id_

    def dead_subject(self, *, id_: str) -> str:
        return f"to.{self.uid}.dead.{id_}"


def stream_configs(uid: str, settings: StreamSettings) -> list[StreamConfig]:
    """Return the configurations of the four streams."""
    names = StreamNames(uid)

    def queue(name: str, subject: str, max_msgs: int = -1) -> StreamConfig:
        return StreamConfig(
            name=name,
            subjects=[subject],
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            max_msgs=max_msgs,
            storage=StorageType.FILE,
            num_replicas=settings.replicas,
            duplicate_window=settings.duplicate_window,
            metadata=dict(settings.marks) or None,
        )

    ran_out = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{names.tasks}.{WORKERS}"
    return [
        queue(names.tasks, f"to.{uid}.tasks.>", settings.max_tasks),
        queue(names.results, f"to.{uid}.results.>"),
        queue(names.dead, f"to.{uid}.dead.>"),
        queue(names.advisories, ran_out),
    ]


def consumer_configs(uid: str, settings: StreamSettings) -> list[tuple[str, ConsumerConfig]]:
    """Return the durable pull consumers, each with the name of its stream."""
    names = StreamNames(uid)

    def consumer(name: str, *, ack_wait: float, max_deliver: int, max_ack_pending: int) -> ConsumerConfig:
        return ConsumerConfig(
            name=name,
            durable_name=name,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait,
            max_deliver=max_deliver,
            max_ack_pending=max_ack_pending,
            num_replicas=settings.replicas,
        )

    workers = consumer(
        WORKERS,
        ack_wait=settings.ack_wait,
        max_deliver=settings.max_deliver,
        max_ack_pending=settings.max_ack_pending,
    )
    controller = consumer(CONTROLLER, ack_wait=settings.result_ack_wait, max_deliver=-1, max_ack_pending=256)
    return [(names.tasks, workers), *((s, controller) for s in (names.results, names.dead, names.advisories))]


async def make_streams(js: JetStreamContext, *, uid: str, settings: StreamSettings | None = None) -> None:
    """Create missing streams and buckets, and update those that differ. Idempotent; no message is lost."""
    chosen, names = settings or StreamSettings(), StreamNames(uid)
    for config in stream_configs(uid, chosen):
        try:
            await js.add_stream(config)
        except BadRequestError as error:
            if error.err_code != _STREAM_NAME_IN_USE:
                raise
            await js.update_stream(config)
    for stream, consumer in consumer_configs(uid, chosen):
        await js.add_consumer(stream, consumer)
    await js.create_key_value(KeyValueConfig(bucket=names.state, replicas=chosen.replicas))
    await js.create_object_store(names.payloads, config=ObjectStoreConfig(replicas=chosen.replicas))


async def remove_streams(js: JetStreamContext, *, uid: str) -> None:
    """Delete the training's streams and buckets with their content. Idempotent."""
    names = StreamNames(uid)
    kept = [f"KV_{names.state}", f"OBJ_{names.payloads}", names.advisories, names.dead, names.results, names.tasks]
    for stream in kept:
        try:
            await js.delete_stream(stream)
        except NotFoundError:
            continue
