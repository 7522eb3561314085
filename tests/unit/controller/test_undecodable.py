"""Results that do not read: recorded, billed at the worst case, acknowledged, and their episodes sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from support.controller_scene import Scene, either
from support.episode_world import FakeExperts, answer, host_of, order_of, play
from support.evaluator_life import ALONE, Life
from toolorchestra.bus.envelope import UNREADABLE, Envelope
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import Lease, Received, ResultKind
from toolorchestra.controller.arrival import Undecodable
from toolorchestra.controller.wire import BusWire, read_arrival
from toolorchestra.evaluation.archive import evaluation_traces, lost_attempts, traces_in
from toolorchestra.ledger.journal import Kind, read_frames
from toolorchestra.ledger.journalled import KEPT_BYTES
from toolorchestra.rollout.codec import TRACE_CONTENT, decode_trace, encode_trace
from toolorchestra.rollout.trace import Trace
from toolorchestra.rollout.worker import WorkerSettings
from toolorchestra.runs.run_dir import read_jsonl

SETTINGS = WorkerSettings(concurrency=16, lease_expiry_seconds=0.2)
Spoil = Callable[[Envelope], Envelope]


class SpoilingBus(MemoryBus):
    """The first results on it are spoiled underway."""

    def __init__(self, spoil: Spoil, times: int) -> None:
        super().__init__(ack_wait=5.0)
        self.spoil, self.times = spoil, times

    async def complete(self, lease: Lease, result: Envelope) -> None:
        if self.times:
            self.times -= 1
            result = self.spoil(result)
        await super().complete(lease, result)


def of_trace(change: Callable[[Trace], Trace]) -> Spoil:
    return lambda e: replace(e, body=encode_trace(change(decode_trace(e.body))))


def with_version(trace: Trace) -> Trace:
    samples = tuple(
        s.model_copy(update={"segments": tuple(g.model_copy(update={"version": "not-one"}) for g in s.segments)})
        for s in trace.samples
    )
    return trace.model_copy(update={"samples": samples})


SPOILT: dict[str, tuple[Spoil, str]] = {
    "another codec": (lambda e: replace(e, body=b"\x00" + e.body[1:]), "payload of version 0"),
    "truncated": (lambda e: replace(e, body=e.body[:-5]), "damaged payload"),
    "an older worker": (lambda e: replace(e, content="trace/0"), "trace/0 content, where this release reads trace/1"),
    "no envelope": (lambda e: replace(e, content=UNREADABLE), "unreadable content"),
    "another issue": (
        of_trace(lambda t: t.model_copy(update={"issue": "uid.7.0.0.0"})),
        "trace belongs to another dispatch",
    ),
    "no version": (of_trace(with_version), "not-one"),
    "a negative bill": (
        of_trace(
            lambda t: t.model_copy(update={"components": t.components.model_copy(update={"actual_usd": Decimal("-3")})})
        ),
        r"a negative cost, \$-3",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
async def test_an_undecodable_result_is_recorded_paid_and_its_episode_sent_again(tmp_path: Path, kind: str) -> None:
    spoil, why = SPOILT[kind]
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal("20"), bus=SpoilingBus(spoil, times=2))
    kept: list[Undecodable] = []

    async def keep(refused: Undecodable) -> None:
        kept.append(refused)
        scene.journalled.keep_undecodable(refused.id, why=refused.why, raw=refused.raw)
        scene.journalled.flush()

    scene.controller.wire = scene.controller.outbox.wire = BusWire(scene.bus, keep=keep)
    async with scene.running():
        (row,) = await scene.train()
        depth = await scene.bus.depth()
    assert row["episodes"] == 8
    assert row["unscored"] == {"undecodable": 2}
    assert depth.results == 0, "every result was acknowledged"
    scene.journalled.flush()
    frames = list(read_frames(scene.journalled.journal.path))
    unscored = [(f.head["reason"], f.head["usd"]) for f in frames if f.kind is Kind.UNSCORED]
    assert unscored == [("undecodable", "0.5")] * 2, "the worst case is their bill"
    raw = [f for f in frames if f.kind is Kind.UNDECODABLE]
    assert [(f.head["id"], f.head["why"], f.body) for f in raw] == [(k.id, k.why, k.raw) for k in kept]
    (event,) = [e for e in read_jsonl(scene.controller.run.events) if e["event"] == "unscored"]
    assert event["message"].startswith("an episode ended as undecodable: ")
    assert why.replace("\\", "") in event["message"]
    assert scene.account().trained == 8
    assert len(list(traces_in(scene.journalled.journal.path))) == 8


async def test_a_result_under_no_dispatch_is_kept_and_forgotten() -> None:
    bus = MemoryBus()
    await bus.submit(Envelope(id="not-an-issue", body=b"x"))
    await bus.submit(Envelope(id="uid.0.0.0.0", body=b"x"))
    kept: list[Undecodable] = []

    async def keep(refused: Undecodable) -> None:
        kept.append(refused)

    for lease in [*await bus.lease(max_n=1, expiry=1), *await bus.lease(max_n=1, expiry=1)]:
        await bus.complete(lease, Envelope(id=lease.envelope.id, body=b"garbage"))
    delivery = await asyncio.wait_for(anext(BusWire(bus, keep=keep).deliveries()), 5)
    assert str(delivery.arrival.dispatch) == "uid.0.0.0.0"
    assert (delivery.arrival.undecodable, delivery.arrival.result().usd) == (True, None)
    assert [k.id for k in kept] == ["not-an-issue", "uid.0.0.0.0"]
    assert (await bus.depth()).results == 1, "the stranger's is acknowledged, the other one waits for the books"


def test_the_kept_bytes_are_bounded(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]))
    scene.journalled.keep_undecodable("uid.0.0.0.0", why="too long", raw=b"x" * (KEPT_BYTES + 1))
    scene.journalled.flush()
    (frame,) = [f for f in read_frames(scene.journalled.journal.path) if f.kind is Kind.UNDECODABLE]
    assert (len(frame.body), frame.head["bytes"]) == (KEPT_BYTES, KEPT_BYTES + 1)


async def test_a_deferred_result_that_does_not_read_waits_for_no_expert() -> None:
    trace = await play(order_of(issue="uid.1.0.0.0"), host_of([answer("oak")]))
    good = Envelope(id=trace.issue, body=encode_trace(trace), content=TRACE_CONTENT, reason="oak")
    for envelope, expert in ((good, "oak"), (replace(good, body=b"?"), None)):
        arrival, refused = read_arrival(Received(token=1, kind=ResultKind.DEFERRED, envelope=envelope))
        assert arrival is not None
        assert (arrival.deferred_for, arrival.result().deferred_for) == (expert, expert)
        assert (refused is None) == (expert is not None)


async def test_an_evaluation_sends_again_what_does_not_read_and_counts_what_never_does(tmp_path: Path) -> None:
    first: list[str] = []

    def spoil(result: Envelope) -> Envelope:
        task = decode_trace(result.body).task_id
        first.append(task)
        return replace(result, body=b"\x00") if task == first[0] or len(first) == 3 else result

    life = Life(tmp_path, FakeExperts(), bus=SpoilingBus(spoil, times=1000))
    async with life.running():
        done = await life.evaluate()
    assert (done.scored, done.unscored) == (4, {"undecodable": 1})
    assert len(evaluation_traces(tmp_path)["held-out"][ALONE]) == 4
    assert lost_attempts(tmp_path) == {"held-out": {ALONE: 1}}
