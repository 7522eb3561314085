"""Events that are posted once, metrics, resyncs, and the kinds that a server has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from testbed.control_plane import free_port
from toolorchestra.kube.errors import AlreadyExists, ApiError, Forbidden, Unavailable
from toolorchestra_operator.kubernetes.discovery import INTERESTING, Discovery, words
from toolorchestra_operator.kubernetes.kinds import POOLS, RAY_JOB, TRAININGS
from toolorchestra_operator.kubernetes.manifest import Key, Manifest
from toolorchestra_operator.planning.events import Events, event
from toolorchestra_operator.planning.plan import Emit
from toolorchestra_operator.runtime.http_server import HttpServer
from toolorchestra_operator.runtime.key_queue import KeyQueue
from toolorchestra_operator.runtime.metrics import Meter
from toolorchestra_operator.runtime.operator_process import cancel
from toolorchestra_operator.runtime.resync import Resync

# ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────

POOL: dict[str, Any] = {
    "apiVersion": "toolorchestra.dev/v1alpha1",
    "kind": "ExpertPool",
    "metadata": {"namespace": "team", "name": "qwen", "uid": "u1", "resourceVersion": "7"},
}
NEWS = Emit("Warning", "ProbeFailed", "Ready=False: the expert did not answer")


@dataclass
class Sink:
    error: ApiError | None = None
    made: list[Manifest] = field(default_factory=list)

    async def create(self, manifest: Manifest) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.made.append(manifest)
        return dict(manifest)


async def test_an_event_is_posted_once_in_ten_minutes_and_per_object() -> None:
    now, sink = 0.0, Sink()
    events = Events(sink, clock=lambda: now)
    await events.post(NEWS, about=POOL)
    await events.post(NEWS, about=POOL)
    await events.post(Emit("Normal", "Ready", ""), about=POOL)
    await events.post(NEWS, about={**POOL, "metadata": {**POOL["metadata"], "uid": "u2"}})
    assert len(sink.made) == 3
    now += 601.0
    await events.post(NEWS, about=POOL)
    assert len(sink.made) == 4


async def test_an_event_that_cannot_be_posted_is_no_failure_and_is_tried_with_the_next_plan() -> None:
    sink = Sink(Forbidden("no", verb="create", resource="events", code=403))
    events = Events(sink)
    await events.post(NEWS, about=POOL)
    sink.error = None
    await events.post(NEWS, about=POOL)
    assert len(sink.made) == 1


def test_an_event_as_the_server_wants_it() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    made = event(Emit("Normal", "Ready", "ü" * 1000), about=POOL, now=moment, instance="x" * 200)
    assert made["eventTime"] == "2026-01-02T03:04:05.000678Z"
    assert len(made["note"].encode()) == 1024
    assert len(made["reportingInstance"]) == 128
    assert made["regarding"]["uid"] == "u1"
    assert made["metadata"]["namespace"] == "team"


async def test_an_event_that_was_posted_by_the_operator_before_is_not_posted_again() -> None:
    """The same news about the same object, as it was before: the same name, whatever the time and whatever else is said
    of it: an operator that overlaps with this one has seen other words, or another condition."""
    told = [
        event(NEWS, about=POOL, now=datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC), instance="i") for second in (5, 6)
    ]
    after = {**POOL, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    another = event(NEWS, about=after, now=datetime(2026, 1, 2, tzinfo=UTC), instance="i")
    assert told[0]["metadata"]["name"] == told[1]["metadata"]["name"] != another["metadata"]["name"]
    other = {**POOL, "status": {"conditions": [{"type": "Routable", "status": "True"}]}}
    words = Emit(NEWS.type, NEWS.reason, "Ready=False: it still does not answer")
    elsewhere = event(words, about=other, now=datetime(2026, 1, 2, tzinfo=UTC), instance="another")
    assert elsewhere["metadata"]["name"] == told[0]["metadata"]["name"]
    sink = Sink(AlreadyExists("it is there", verb="create", resource="events", code=409))
    events = Events(sink)
    await events.post(NEWS, about=POOL)
    sink.error = None
    await events.post(NEWS, about=POOL)
    assert not sink.made, "it is there already"


# ── metrics ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_metrics_are_served_as_text() -> None:
    meter, port, queue = Meter(), free_port(), KeyQueue()
    queue.add(Key("ExpertPool", "team", "qwen"))
    meter.queue(depth=lambda: queue.depth, oldest=lambda: queue.oldest)
    meter.request("apply", "Deployment", "200")
    meter.resynced(ok=False)
    server = HttpServer({"/metrics": meter.answer}, host="127.0.0.1", port=port)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            lines = (await answer.text()).splitlines()
    finally:
        await server.stop()
    assert "toolorchestra_operator_queue_depth 1.0" in lines
    assert 'toolorchestra_operator_api_requests_total{code="200",resource="Deployment",verb="apply"} 1.0' in lines
    assert 'toolorchestra_operator_resyncs_total{outcome="failed"} 1.0' in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)


# ── resync ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Listing:
    """Parents by (kind, namespace)."""

    parents: Mapping[tuple[str, str], list[str]]
    error: ApiError | None = None

    async def list(self, api_version: str, kind: str, *, namespace: str = "") -> list[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        return [
            {"kind": kind, "metadata": {"namespace": namespace or "any", "name": name}}
            for name in self.parents.get((kind, namespace), [])
        ]


async def test_a_resync_puts_every_parent_on_the_queue_apart_and_sweeps() -> None:
    now, swept = 0.0, list[int]()

    async def breaks(parents: Any) -> None:
        raise ValueError("a bug")

    async def sweep(parents: Any) -> None:
        swept.append(len(parents))

    draws = iter([0.0, 0.5, 0.999])
    queue = KeyQueue(clock=lambda: now)
    listing = Listing({("ExpertPool", "a"): ["one", "two"], ("OrchestratorTraining", "b"): ["one"]})
    resync = Resync(
        api=listing,
        queue=queue,
        meter=Meter(),
        namespaces=("a", "b"),
        interval=300.0,
        sweeps=(breaks, sweep),
        draw=lambda: next(draws),
    )
    assert await resync.once()
    assert swept == [3]
    assert queue.take() == Key("ExpertPool", "a", "one")
    assert queue.take() is None, "not all at once"
    now += 30.0
    assert {queue.take(), queue.take()} == {Key("ExpertPool", "a", "two"), Key("OrchestratorTraining", "b", "one")}


async def test_a_resync_that_cannot_list_sweeps_nothing() -> None:
    async def sweep(parents: Any) -> None:
        pytest.fail("it would remove what belongs to parents that were not listed")

    listing = Listing({}, Unavailable("away", verb="list", resource="x"))
    queue = KeyQueue()
    assert not await Resync(api=listing, queue=queue, meter=Meter(), sweeps=(sweep,)).once()
    assert queue.wait() is None


# ── discovery ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Kinds:
    """What is served at each look; an error is raised."""

    looks: list[frozenset[tuple[str, str]] | ApiError]
    asked: int = 0

    async def connect(self) -> AbstractAsyncContextManager[Kinds]:
        self.now = self.looks.pop(0)
        self.asked = 0
        return nullcontext(self)

    async def served(self, api_version: str, kind: str) -> bool:
        if isinstance(self.now, ApiError):
            raise self.now
        return (api_version, kind) in self.now


OURS = frozenset([TRAININGS, POOLS])
AWAY = Unavailable("away", verb="get", resource="x")


async def test_the_process_starts_again_only_for_a_change_that_stays() -> None:
    kinds = Kinds([OURS, AWAY, frozenset(), OURS, OURS | {RAY_JOB}, AWAY, OURS | {RAY_JOB}, OURS])
    changed = Discovery(kinds.connect, interval=0.001).changed(OURS)
    assert await asyncio.wait_for(changed, 10) == OURS | {RAY_JOB}
    assert len(kinds.looks) == 1


async def test_the_first_look_waits_for_the_server() -> None:
    kinds = Kinds([AWAY, AWAY, OURS])
    assert await asyncio.wait_for(Discovery(kinds.connect, interval=0.001).first(), 10) == OURS


def test_a_change_of_kinds_in_words() -> None:
    assert words(OURS, OURS | {RAY_JOB}) == "RayJob (ray.io/v1) was added"
    assert "ExpertPool (toolorchestra.dev/v1alpha1) was removed" in words(frozenset(INTERESTING), frozenset())


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    async def broken() -> None:
        raise RuntimeError("as it is cancelled")

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(broken())]
    await asyncio.sleep(0)  # both have begun
    await asyncio.wait_for(cancel(tasks, every=0.01), 10)
    assert swallowed == 3
    assert all(task.done() for task in tasks)
    assert isinstance(tasks[1].exception(), RuntimeError)
