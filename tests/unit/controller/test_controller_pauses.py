"""What pauses a run, stops it, or is survived: caps, engines, workers, steps that are not finite, a kill."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.controller_scene import POOLS, Scene, either
from support.episode_world import FakeExperts, answer
from toolorchestra.api.conditions import Reason
from toolorchestra.controller.pauses import Paused, Stopped
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.client import ExpertClient
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.ledger.journal import Kind, read_frames
from toolorchestra.ledger.sibling import MAX_DISPATCHES
from toolorchestra.policy.engine import EngineLost, Generation, NoEngine
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.runs.run_dir import read_jsonl
from toolorchestra.tools.view import Price


async def test_the_spend_cap_pauses_with_what_to_do(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=3, cap=Decimal("4.5"))
    async with scene.running():
        with pytest.raises(Paused, match=r"spend cap.*maxSpendUSD"):
            await scene.train()
    spend = scene.journalled.ledger.spend
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
    journalled = scene.account()
    assert (journalled.accepted, journalled.trained) == (0, 0)


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
    results = [frame for frame in read_frames(scene.journalled.journal.path) if frame.kind is Kind.UNSCORED]
    assert {frame.head["usd"] for frame in results} == {"0.5"}, "unknown is the worst case"


@pytest.mark.parametrize("cap", [None, Decimal("9")])
async def test_episodes_wait_for_an_engine_that_is_out_uncounted_and_uncharged(
    cap: Decimal | None, tmp_path: Path
) -> None:
    """It may restart, or load for long: more sendings than an episode has, and none fails."""
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=cap)
    waits = 8 * 2 * MAX_DISPATCHES

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
    spend = scene.journalled.ledger.spend
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
    scene.journalled.flush()
    results = [frame for frame in read_frames(scene.journalled.journal.path) if frame.kind is Kind.UNSCORED]
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
    journalled = scene.account()
    assert (journalled.trained, journalled.exact) == (8, True)


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
    assert scene.journalled.ledger.step == 1
    assert scene.account().exact


async def test_a_second_life_trains_what_the_first_accepted(tmp_path: Path) -> None:
    first = Scene(tmp_path, reply=either([]), steps=2)
    async with first.running() as controller:
        dispatches = first.journalled.admit(now=0.0)
        first.journalled.flush()
        await controller.dispatcher.send(dispatches)
        while first.account().accepted < 8:
            controller.wake.clear()
            await asyncio.wait_for(controller.wake.wait(), 30)
    # Killed here: nothing was trained. The second life starts from the checkpoint of step 0.
    second = Scene(tmp_path, reply=either([]), steps=1)
    assert second.journalled.ledger.incarnation == 1
    for frame in read_frames(second.journalled.journal.path):
        if frame.body:
            trace = decode_trace(frame.body)
            second.controller.traces[Dispatch.parse(trace.issue)] = trace
    async with second.running() as controller:
        await controller.recover(second.journalled.restore(second.recovery, now=0.0))
        row = (await second.train())[0]
    assert row["episodes"] == 8
    assert second.engine.prompts == [], "everything had been accepted before the kill"
    assert second.account().trained == 8
