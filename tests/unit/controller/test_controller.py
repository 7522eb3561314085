"""The controller's whole loop with a real worker on the in-memory bus; only the GPU parts are fakes.

The engine is scripted, the trainers count, the experts answer from a table: what is tested is who is issued, trained,
excluded, deferred and paid when things go wrong.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.controller_scene import POOLS, Hours, Scene, either
from support.episode_world import FakeExperts, answer, host_of
from support.synthetic_run import metric_row
from support.train_samples import fresh_places
from toolorchestra.api.conditions import Reason
from toolorchestra.bus.envelope import Envelope, without_body
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import UNTOUCHED, Received
from toolorchestra.controller.deferral import LONGEST_SECONDS, OUT_SECONDS, Outage
from toolorchestra.controller.outbox import reckon
from toolorchestra.controller.pauses import Paused, Stopped
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.client import ExpertClient
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.experts.errors import ExpertUnavailable
from toolorchestra.experts.errors import Reason as ExpertReason
from toolorchestra.experts.usage import Usage
from toolorchestra.ledger.history import read_history
from toolorchestra.ledger.journal import Kind, read_frames, read_synced
from toolorchestra.ledger.ledger import Waiting
from toolorchestra.ledger.sibling import MAX_ISSUES
from toolorchestra.policy.engine import EngineLost, Generation, NoEngine
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.codec import TRACE_CONTENT, decode_order, decode_trace
from toolorchestra.rollout.identity import Issue
from toolorchestra.rollout.worker import Worker, WorkerSettings
from toolorchestra.runs.run_dir import read_jsonl
from toolorchestra.tools.view import Price


@pytest.mark.parametrize("staleness", [0, 2])
async def test_every_accepted_episode_is_trained_once(tmp_path: Path, staleness: int) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=4, staleness=staleness)
    async with scene.running():
        rows = await scene.train()
    books = scene.account()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert books.exact
    assert (books.trained, books.open) == (4 * 2 * 4, 0)
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
    history = read_history(read_frames(scene.books.journal.path))
    for row, batch in zip(rows, scene.trainers.batches, strict=True):
        versions = [history.accepted[issue].newest for issue in history.steps[row["step"]]]
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
    """Until then one episode at a time tries the expert; what it costs no issue, it costs a deferral."""
    out = ExpertUnavailable(
        pool="pool-dear", reason=ExpertReason.CONNECTION, detail="connection refused", usage=Usage()
    )
    back = asyncio.Event()
    experts = FakeExperts({"pool-dear": lambda: r"\boxed{1}" if back.is_set() else out})
    scene = Scene(tmp_path, reply=lambda prompt: answer("pool-dear"), experts=experts, steps=1)
    hours = Hours()
    scene.deferrals.clock = hours
    groups = scene.books.ledger.groups

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
    journal, submit, acknowledge = scene.books.journal, scene.bus.submit, scene.bus.ack
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
    await scene.controller.dispatch.send(scene.books.admit(now=time.time()))
    for sibling in scene.books.ledger.groups[0].siblings:
        sibling.charged = MAX_ISSUES
    await scene.controller.unblock(Waiting("stragglers are due", stragglers=(0,)))
    assert 0 not in scene.books.ledger.groups
    async with scene.running():
        rows = await scene.train()
    assert [row["groups_dropped"] for row in rows] == [{"stale": 1, "too_few_scored": 1}, {}]
    assert scene.account().exact


# ── dead issues ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_dead_issues_are_taken_off_the_bus_before_anyone_plays_them(tmp_path: Path) -> None:
    experts = FakeExperts(gate=asyncio.Event(), worst_usd=Decimal("0.4"))
    scene = Scene(tmp_path, reply=either([]), experts=experts, steps=2, staleness=1, on_stale="Drop", cap=Decimal(40))
    await scene.controller.dispatch.send(scene.books.admit(now=time.time()))
    assert scene.books.ledger.spend.held == 16 * Decimal("0.5")
    (lease, *_) = await scene.bus.lease(max_n=1, expiry=1)
    await scene.controller.unblock(Waiting("stragglers are due", stragglers=(0, 1)))
    depth, spend = await scene.bus.depth(), scene.books.ledger.spend
    assert (depth.queued, depth.leased) == (16, 0), "8 of the first, 8 instead of the dead"
    assert list(spend.dead) == [lease.envelope.id]
    assert spend.held == 17 * Decimal("0.5"), "what a worker has had stays reserved until its bill comes"


async def test_an_order_that_no_worker_has_had_does_not_expire(tmp_path: Path) -> None:
    """The time-out runs from the lease, not from the publication."""
    scene = Scene(tmp_path, reply=either([]), steps=1, issue_timeout=-1.0, cap=Decimal(40))
    ledger = scene.books.ledger
    await scene.controller.dispatch.send(scene.books.admit(now=time.time()))
    await scene.controller.look_after()
    assert {s.live.n for g in ledger.groups.values() for s in g.siblings if s.live} == {0}
    leases = await scene.bus.lease(max_n=3, expiry=1)
    await scene.controller.look_after()
    lost = [s for g in ledger.groups.values() for s in g.siblings if s.live and s.live.n == 1]
    assert [str(s.episode) + ".0.0" for s in lost] == [lease.envelope.id for lease in leases]
    assert (await scene.bus.depth()).queued == 8
    await scene.controller.look_after()
    scene.books.flush()
    history = read_history(read_frames(scene.books.journal.path))
    assert history.spent == ledger.spend.settled == 3 * Decimal("0.5"), "nobody tells what they cost"


async def test_an_issue_that_dies_while_it_is_published_is_taken_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(40))
    first, *rest = scene.books.admit(now=time.time())
    submit = scene.bus.submit

    async def slowly(task: Any) -> None:
        scene.books.ledger.fail(first, reason="test", now=0)
        await submit(task)

    scene.bus.submit = slowly  # type: ignore[method-assign]
    await scene.controller.dispatch.send([first])
    assert (await scene.bus.depth()).queued == 0
    scene.books.ledger.fail(rest[0], reason="test", now=0)
    await scene.controller.dispatch.send([rest[0]])
    assert (await scene.bus.depth()).queued == 0, "dead before it was published"
    assert str(first) not in scene.books.ledger.spend.reserved
    assert str(rest[0]) not in scene.books.ledger.spend.reserved


async def test_three_lives_do_not_eat_the_cap(tmp_path: Path) -> None:
    """Each is killed with its orders on the queue, with one being played, and with one never published."""
    bus, played = MemoryBus(ack_wait=60), []
    for _ in range(3):
        scene = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(10), bus=bus)
        await reckon(bus, scene.books, patience=60)
        spend = scene.books.ledger.spend
        assert (spend.settled, list(spend.dead)) == (0, played)
        issues = [*scene.books.restore(scene.recovery, now=0).issues, *scene.books.admit(now=0)]
        assert len(issues) == 8
        scene.books.flush()
        await scene.controller.dispatch.send(issues[:-1])
        played += [lease.envelope.id for lease in await bus.lease(max_n=1, expiry=1)]
        scene.books.journal.close()
    last = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(10), bus=bus)
    await reckon(bus, last.books, patience=-1)
    assert last.books.ledger.spend.held == 3 * Decimal("0.5")
    last.books.presume(now=time.time() + 60)
    assert (last.books.ledger.spend.settled, last.books.ledger.spend.held) == (3 * Decimal("0.5"), 0)


async def test_a_bus_that_was_made_anew_tells_nothing_of_what_was_published_before(tmp_path: Path) -> None:
    first = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(10))
    await reckon(first.bus, first.books, patience=60)
    await first.controller.dispatch.send(first.books.admit(now=0))
    first.books.journal.close()
    second = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(10))
    await reckon(second.bus, second.books, patience=60)
    assert len(second.books.ledger.spend.dead) == 8
    assert second.books.ledger.spend.held == 8 * Decimal("0.5")


async def test_a_worker_that_is_told_to_stop_is_paid_for_and_is_no_failure(tmp_path: Path) -> None:
    experts = FakeExperts(gate=asyncio.Event(), worst_usd=Decimal("0.4"))
    scene = Scene(tmp_path, reply=either([]), experts=experts, steps=1, cap=Decimal("9"))
    host = host_of(engine=scene.engine, experts=experts)
    settings = WorkerSettings(concurrency=16, lease_expiry_seconds=0.2, grace_seconds=0.05)
    worker = Worker(bus=scene.bus, host=host, settings=settings)
    working = asyncio.create_task(worker.run())
    await scene.controller.dispatch.send(scene.books.admit(now=time.time()))
    for _ in range(8):
        await experts.called.get()
    worker.stop()
    await working
    assert experts.gate is not None
    experts.gate.set()
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    scene.books.flush()
    stopped = [f for f in read_frames(scene.books.journal.path) if f.kind is Kind.UNSCORED]
    assert [(f.head["reason"], f.head["usd"]) for f in stopped] == [("cancelled", "0.4")] * 8
    spend = scene.books.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.4") + 8 * Decimal("0.5"), 0)
    assert scene.controller.failures.recent == [False] * 8


@pytest.mark.parametrize("cap", [None, Decimal("9")])
async def test_a_worker_that_vanished_has_spent_its_worst_case_and_is_no_failure_of_the_run(
    cap: Decimal | None, tmp_path: Path
) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=cap)
    await scene.controller.dispatch.send(scene.books.admit(now=time.time()))
    for lease in await scene.bus.lease(max_n=8, expiry=1):
        await scene.bus.hand_back(lease)  # as the bus does itself where heartbeats end
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    scene.books.flush()
    lost = [f for f in read_frames(scene.books.journal.path) if f.kind is Kind.UNSCORED]
    assert [(f.head["reason"], f.head["usd"]) for f in lost] == [("worker_lost", "0.5")] * 8
    spend = scene.books.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.5") + 8 * Decimal("0.5"), 0)
    assert scene.controller.failures.recent == [False] * 8


@pytest.mark.parametrize("cap", [None, Decimal("90")])
async def test_what_nobody_tells_the_bill_of_counts_at_its_worst_with_and_without_a_cap(
    tmp_path: Path, cap: Decimal | None
) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=cap)
    await scene.controller.dispatch.send(scene.books.admit(now=time.time()))
    for lease in await scene.bus.lease(max_n=8, expiry=1):
        order = decode_order(lease.envelope.body)
        assert order.allowance_usd == (None if cap is None else Decimal("0.5")), "without a cap it bounds no worker"
        await scene.bus.complete(lease, replace(lease.envelope, body=b"no trace", content=TRACE_CONTENT))
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    spend = scene.books.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.5") + 8 * Decimal("0.5"), 0)


async def test_an_order_that_a_worker_gave_back_is_free_and_does_not_count(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal("9"))
    await scene.controller.dispatch.send(scene.books.admit(now=time.time()))
    for lease in await scene.bus.lease(max_n=8, expiry=1):
        await scene.bus.defer(lease, without_body(lease.envelope, reason=UNTOUCHED))
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    spend = scene.books.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.5"), 0)
    assert scene.controller.failures.recent == [False] * 8
    assert row["unscored"] == {}


async def test_the_spend_cap_pauses_with_what_to_do(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=3, cap=Decimal("4.5"))
    async with scene.running():
        with pytest.raises(Paused, match=r"spend cap.*maxSpendUSD"):
            await scene.train()
    spend = scene.books.ledger.spend
    assert spend.settled + spend.held <= Decimal("4.5")
    assert scene.account().exact


async def test_a_policy_that_talks_garbage_for_a_step_goes_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=lambda prompt: "la la la", steps=2)
    async with scene.running():
        rows = await scene.train()
    assert [row["endings"] for row in rows] == [{"unparseable": 8}] * 2
    assert scene.trainers.batches == [], "no sample is in the required format, so nothing is trained"
    assert scene.account().exact


async def test_engines_that_never_answer_pause_the_run_with_the_cause(tmp_path: Path) -> None:
    def lost(prompt: str) -> str:
        raise EngineLost("no engine")

    scene = Scene(tmp_path, reply=lost, steps=40, staleness=4)
    async with scene.running():
        with pytest.raises(Paused, match="engine_lost"):
            await scene.train()
    books = scene.account()
    assert (books.accepted, books.trained) == (0, 0)


@pytest.mark.parametrize("cap", [None, Decimal("900")])
async def test_workers_that_break_pause_the_run_with_their_words(cap: Decimal | None, tmp_path: Path) -> None:
    class Breaking(FakeExperts):
        def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
            raise RuntimeError("a bug of ours")

    scene = Scene(tmp_path, reply=either([]), experts=Breaking(), steps=40, staleness=4, cap=cap)
    async with scene.running():
        with pytest.raises(Paused, match="RuntimeError: a bug of ours") as paused:
            await scene.train()
    assert paused.value.reason is Reason.FAILURE_RATE_EXCEEDED
    results = [frame for frame in read_frames(scene.books.journal.path) if frame.kind is Kind.UNSCORED]
    assert {frame.head["usd"] for frame in results} == {"0.5"}, "unknown is the worst case"


@pytest.mark.parametrize("cap", [None, Decimal("9")])
async def test_episodes_wait_for_an_engine_that_is_out_uncounted_and_uncharged(
    cap: Decimal | None, tmp_path: Path
) -> None:
    """It may restart, or load for long: more sendings than an episode has, and none fails."""
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=cap)
    waits = 8 * 2 * MAX_ISSUES

    async def routable(*, version: str | None = None) -> None:
        nonlocal waits
        waits -= 1
        if waits >= 0:
            raise NoEngine("no routable engine in 120 s (1 known)")

    scene.engine.routable = routable  # type: ignore[method-assign]
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    assert waits < 0
    spend = scene.books.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.5"), 0)
    assert scene.controller.failures.recent == [False] * 8
    assert (row["unscored"], row["groups_dropped"]) == ({}, {})


async def test_workers_that_were_started_with_other_pools_pause_the_run_and_say_what_to_do(tmp_path: Path) -> None:
    """The real client's refusal: an infrastructure ending in the journal, never a broken worker."""
    client = ExpertClient([Endpoint(pool="of-another-run", url="http://127.0.0.1:1/v1", model="m", price=Price())])
    scene = Scene(tmp_path, reply=either([]), experts=client, steps=40, staleness=4)  # type: ignore[arg-type]
    async with scene.running(), client:
        with pytest.raises(Paused, match=r"tool_failure.* no expert pool .*; there are of-another-run: .*--pools"):
            await scene.train()
    scene.books.flush()
    results = [frame for frame in read_frames(scene.books.journal.path) if frame.kind is Kind.UNSCORED]
    assert results
    assert {frame.head["reason"] for frame in results} == {"tool_failure"}
    assert {frame.head["usd"] for frame in results} == {"0"}
    assert "no expert pool 'pool-" in decode_trace(results[0].body).detail
    (event,) = [e for e in read_jsonl(scene.controller.run.events) if e["event"] == "unscored"]
    assert "start this worker with the pool file of the training" in event["message"]


async def test_a_group_without_scored_siblings_is_dropped_and_refilled(tmp_path: Path) -> None:
    prompts: list[str] = []

    def reply(prompt: str) -> str:
        prompts.append(prompt)
        if prompt == prompts[0]:
            raise EngineLost("this one task always fails")
        return answer(POOLS[len(prompts) % 2])

    scene = Scene(tmp_path, reply=reply, steps=1, when_short="Refill")
    async with scene.running():
        row = (await scene.train())[0]
    assert row["groups_dropped"] == {"too_few_scored": 1}
    assert row["episodes"] == 8
    books = scene.account()
    assert (books.trained, books.exact) == (8, True)


async def test_a_step_that_is_not_finite_sets_its_batch_aside_and_goes_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=2)
    scene.trainers.broken = 2
    async with scene.running():
        rows = await scene.train()
    assert [row["groups_dropped"] for row in rows] == [{"non_finite": 4}, {}]
    events = [e for e in read_jsonl(scene.controller.run.events) if e["event"] == "non_finite"]
    assert [e["groups"] for e in events] == [[0, 1], [2, 3]]
    assert "its 2 groups are set aside" in events[0]["message"]
    standing = scene.account()
    assert standing.exact
    assert standing.reasons == {"set_aside:non_finite": 16}
    assert standing.trained == 16
    # A later life that starts from step 0 plays other groups, not those.
    second = Scene(tmp_path, reply=either([]), steps=2)
    assert not {0, 1, 2, 3} & set(second.recovery.restore)


async def test_several_steps_that_are_not_finite_pause_the_run_with_what_to_do(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]))
    scene.trainers.broken = 3
    async with scene.running() as controller:
        with pytest.raises(Paused, match=r"3 steps in a row .* learning rate of 0\.001.*learningRate") as paused:
            await asyncio.wait_for(controller.step(), 30)
    assert paused.value.reason is Reason.STEPS_NOT_FINITE
    assert scene.account().exact


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf"), -9999.0, 0.5])
async def test_a_log_probability_that_is_none_is_a_lost_engine(tmp_path: Path, logprob: float) -> None:
    """The worker's client refuses it; what gets past it is refused on arrival, sent again, and never trained."""
    scene = Scene(tmp_path, reply=either([]), steps=1)
    honest = scene.engine.generate
    broken = 3

    async def generate(prompt: Sequence[int], **options: Any) -> Generation:
        nonlocal broken
        generation = await honest(prompt, **options)
        broken -= 1
        if broken >= 0:
            return replace(generation, logprobs=(*generation.logprobs[:-1], logprob))
        return generation

    scene.engine.generate = generate  # type: ignore[method-assign]
    async with scene.running():
        (row,) = await scene.train()
    assert row["unscored"] == {"engine_lost": 3}
    assert row["episodes"] == 8
    assert all(-9999 < p <= 0 for batch in scene.trainers.batches for sample in batch for p in sample.logprobs)


async def test_being_asked_to_stop_ends_between_steps(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=3)
    async with scene.running() as controller:
        await controller.step()
        controller.stop()
        with pytest.raises(Stopped):
            await controller.step()
    assert scene.books.ledger.step == 1
    assert scene.account().exact


async def test_a_second_life_trains_what_the_first_accepted(tmp_path: Path) -> None:
    first = Scene(tmp_path, reply=either([]), steps=2)
    async with first.running() as controller:
        issues = first.books.admit(now=0.0)
        first.books.flush()
        await controller.dispatch.send(issues)
        while first.account().accepted < 8:
            controller.wake.clear()
            await asyncio.wait_for(controller.wake.wait(), 30)
    # Killed here: nothing was trained. The second life starts from the checkpoint of step 0.
    second = Scene(tmp_path, reply=either([]), steps=1)
    assert second.books.ledger.incarnation == 1
    for frame in read_frames(second.books.journal.path):
        if frame.body:
            trace = decode_trace(frame.body)
            second.controller.traces[Issue.parse(trace.issue)] = trace
    async with second.running() as controller:
        await controller.recover(second.books.restore(second.recovery, now=0.0))
        row = (await second.train())[0]
    assert row["episodes"] == 8
    assert second.engine.prompts == [], "everything had been accepted before the kill"
    assert second.account().trained == 8
