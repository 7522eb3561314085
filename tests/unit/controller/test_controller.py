"""The controller's whole loop with a real worker on the in-memory bus; only the GPU parts are fakes.

The engine is scripted, the trainers count, the experts answer from a table: what is tested is who is dispatched,
trained, excluded, deferred and paid when things go wrong.
"""

from __future__ import annotations

import asyncio
import random
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.controller_scene import Hours, Scene, either
from support.episode_world import FakeExperts, answer
from support.synthetic_run import metric_row
from support.train_samples import fresh_places
from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.protocol import Received
from toolorchestra.controller.deferral import LONGEST_SECONDS, OUT_SECONDS, Outage
from toolorchestra.experts.errors import ExpertUnavailable
from toolorchestra.experts.errors import Reason as ExpertReason
from toolorchestra.experts.usage import Usage
from toolorchestra.ledger.history import read_history
from toolorchestra.ledger.journal import read_frames, read_synced
from toolorchestra.ledger.ledger import Waiting
from toolorchestra.ledger.sibling import MAX_DISPATCHES
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.runs.run_dir import read_jsonl


@pytest.mark.parametrize("staleness", [0, 2])
async def test_every_accepted_episode_is_trained_once(tmp_path: Path, staleness: int) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=4, staleness=staleness)
    async with scene.running():
        rows = await scene.train()
    journalled = scene.account()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert journalled.exact
    assert (journalled.trained, journalled.open) == (4 * 2 * 4, 0)
    assert all(row["staleness_max"] <= staleness for row in rows)
    assert sum(len(batch) for batch in scene.trainers.batches) == 32
    assert scene.engine.version == "0-4"


async def test_a_full_memory_for_snapshots_costs_no_step(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    scene = Scene(tmp_path, reply=either([]), steps=3, snapshots=memory)
    async with scene.running():
        rows = [await scene.controller.step()]
        scene.trainers.full = memory
        rows += [await scene.controller.step() for _ in range(2)]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert scene.engine.version == "0-3"
    (moved,) = (event for event in read_jsonl(scene.controller.run.events) if event["event"] == "snapshots_moved")
    assert str(scene.controller.run.weights) in moved["message"]
    assert all(row["snapshot_seconds"] >= 0 for row in rows)


@pytest.mark.parametrize("staleness", [0, 2])
async def test_tokens_of_the_steps_own_weights_are_what_mismatch_is_measured_on(tmp_path: Path, staleness: int) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=5, staleness=staleness)
    async with scene.running():
        rows = await scene.train()
    history = read_history(read_frames(scene.journalled.journal.path))
    for row, batch in zip(rows, scene.trainers.batches, strict=True):
        versions = [history.accepted[dispatch].newest for dispatch in history.steps[row["step"]]]
        own = [sample for sample in batch if fresh_places(sample)]
        assert len(own) == versions.count(PolicyVersion(0, row["step"] - 1))
        assert all(len(fresh_places(sample)) == sample.trained_tokens for sample in own), "of one generation each"
        figures = {key: value for key, value in row.items() if key.startswith("mismatch_")}
        tokens = sum(sample.trained_tokens for sample in own)
        assert figures == ({"mismatch_k3": 0.002, "mismatch_rms": 0.03, "mismatch_tokens": tokens} if own else {})
        assert own or (staleness and row["step"] > 1)


async def test_the_run_that_reports_are_tested_on_has_no_metric_of_its_own(tmp_path: Path) -> None:
    """Else a report would draw what no run ever writes."""
    scene = Scene(tmp_path, reply=either([]), steps=1)
    async with scene.running():
        (row,) = await scene.train()
    # Under GDPO, whose mean is 0 by construction, there is no reward_mean; under the others there is.
    assert metric_row(1, steps=2, rng=random.Random(0)).keys() - row.keys() == {"reward_mean"}


async def test_an_outage_ends_when_a_call_succeeds(tmp_path: Path) -> None:
    """Until then one episode at a time tries the expert; what it costs no dispatch, it costs a deferral."""
    out = ExpertUnavailable(
        pool="pool-dear", reason=ExpertReason.CONNECTION, detail="connection refused", usage=Usage()
    )
    back = asyncio.Event()
    experts = FakeExperts({"pool-dear": lambda: r"\boxed{1}" if back.is_set() else out})
    scene = Scene(tmp_path, reply=lambda prompt: answer("pool-dear"), experts=experts, steps=1)
    hours = Hours()
    scene.deferrals.clock = hours
    groups = scene.journalled.ledger.groups

    async def told(calls: int, *, step: asyncio.Task[Any]) -> None:
        """So many calls were made, and the controller knows how they came out."""
        while len(experts.asked) < calls or any(s.live for g in groups.values() for s in g.siblings):
            await asyncio.wait({step}, timeout=0.05)
            assert not step.done()

    async with scene.running() as controller:
        step = asyncio.create_task(controller.step())
        await told(8, step=step)
        for tries in range(1, 3):
            hours.now += 2 * LONGEST_SECONDS
            await told(8 + tries, step=step)
        back.set()
        hours.now += 2 * LONGEST_SECONDS
        row = await asyncio.wait_for(step, 30)
    assert row["episodes"] == 8
    assert len(experts.asked) == 8 + 2 + 8, "two tries, then all"
    assert scene.account().trained == 8
    assert scene.deferrals.outages == {}


async def test_nothing_is_published_or_acknowledged_before_it_is_on_disk(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=2, cap=Decimal(100))
    journal, submit, acknowledge = scene.journalled.journal, scene.bus.submit, scene.bus.ack
    early: list[str] = []

    def known(id_: str) -> tuple[bool, bool]:
        """Whether its result and whether its sending is on disk."""
        heads = [f.head for f in read_frames(journal.path) if f.end <= (read_synced(journal.path) or 0)]
        sent = any(h.get("note") == "issued" and id_ in h["issues"] for h in heads)
        return any(id_ == h.get("issue") for h in heads), sent

    async def submitted(task: Envelope) -> None:
        early.extend([] if known(task.id)[1] else [f"order {task.id}"])
        await submit(task)

    async def acknowledged(received: Received) -> None:
        early.extend([] if known(received.envelope.id)[0] else [f"result {received.envelope.id}"])
        await acknowledge(received)

    scene.bus.submit, scene.bus.ack = submitted, acknowledged  # type: ignore[method-assign]
    async with scene.running():
        await scene.train()
    assert early == []


async def test_a_long_step_is_no_standstill(tmp_path: Path) -> None:
    """An outage that nobody tried to end meanwhile does not pause the run before it has waited for anything."""
    scene = Scene(tmp_path, reply=lambda prompt: answer("pool-cheap"), steps=1)
    hours = Hours()
    scene.deferrals.clock = hours
    scene.deferrals.outages["pool-dear"] = Outage(since=hours(), try_at=hours())
    hours.now += 2 * OUT_SECONDS
    async with scene.running():
        assert len(await scene.train()) == 1


async def test_groups_that_a_kill_finishes_are_judged(tmp_path: Path) -> None:
    """`onStale: Drop` once waited for ever for groups whose last sendings the kill had taken."""
    scene = Scene(tmp_path, reply=either([]), steps=2, staleness=1, on_stale="Drop")
    await scene.controller.dispatcher.send(scene.journalled.admit(now=time.time()))
    for sibling in scene.journalled.ledger.groups[0].siblings:
        sibling.charged = MAX_DISPATCHES
    await scene.controller.unblock(Waiting("stragglers are due", stragglers=(0,)))
    assert 0 not in scene.journalled.ledger.groups
    async with scene.running():
        rows = await scene.train()
    assert [row["groups_dropped"] for row in rows] == [{"stale": 1, "too_few_scored": 1}, {}]
    assert scene.account().exact
