"""A run's metrics say what its metrics.jsonl and its journal say: figures that are read off the same records."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from support.controller_scene import POOLS, Scene, either
from support.episode_world import RENDERER, FakeExperts, answer
from support.evaluator_life import Flaky, Life
from support.metric_points import Measured
from support.run_meters import metered
from toolorchestra.controller.arrival import Arrival
from toolorchestra.controller.evaluator import EvaluationRun
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.monitoring.gauges import Gauges
from toolorchestra.experts.errors import ExpertUnavailable
from toolorchestra.experts.errors import Reason as ExpertReason
from toolorchestra.experts.usage import Usage
from toolorchestra.ledger.journal import Frame, Kind, read_frames
from toolorchestra.policy.engine import EngineLost
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.trace import Trace
from toolorchestra.telemetry import metrics as m


def journal(scene: Scene) -> list[Frame]:
    scene.journalled.flush()
    return list(read_frames(scene.journalled.journal.path))


def traces_of(frames: list[Frame]) -> list[Trace]:
    return [decode_trace(frame.body) for frame in frames if frame.body]


async def test_steps_agree_with_their_lines(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=3, staleness=1)
    seen = metered(scene)
    async with scene.running():
        rows = await scene.train()
    last = rows[-1]
    assert seen.get(m.STEPS, kind="train") == len(rows)
    assert seen.get(m.STEP) == last["step"] == 3
    assert seen.get(m.STEPS_GOAL) == 3
    assert seen.get(m.TRAINED_EPISODES) == sum(row["episodes"] for row in rows) == 24
    assert seen.get(m.TRAINED_GROUPS) == sum(row["groups_trained"] for row in rows)
    assert seen.get(m.TRAINER_TOKENS) == sum(row["tokens"] for row in rows) > 0
    assert seen.get(m.TRAINED_TOKENS) == sum(row["trained_tokens"] for row in rows)
    assert seen.get(m.FORKS) == sum(row["forks"] for row in rows)
    assert seen.get(m.IDLE) == last["trainer_idle_fraction"]
    assert seen.get(m.STEP_TIME) == pytest.approx(sum(row["seconds"]["total"] for row in rows))
    assert seen.get(m.PAUSE) == pytest.approx(sum(row["engine_pause_seconds"] for row in rows))
    phases = {
        phase: sum(row["seconds"][phase] for row in rows) for phase in ("generate_wait", "reward", "train", "sync")
    }
    assert seen.by(m.PHASE_TIME, "phase") == pytest.approx(phases)
    assert seen.get(m.STALENESS) == pytest.approx(sum(row["staleness_mean"] * row["episodes"] for row in rows))
    for key, instrument in m.TRAIN.items():
        if key in last:
            assert seen.get(instrument) == last[key], key
    assert m.TRAIN["accuracy"].name in seen.all()
    assert m.TRAIN["reward_mean"].name not in seen.all(), "its mean is 0 by construction, and no line has it"
    assert seen.get(m.SPEND, state="settled") == last["spent_usd"]


async def test_results_money_and_tokens_agree_with_the_journal(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=2)
    seen = metered(scene)
    async with scene.running():
        await scene.train()
    frames = journal(scene)
    traces = traces_of(frames)
    assert seen.get(m.RESULTS, outcome="accepted", purpose="train", ending="answered") == len(traces) > 0
    assert seen.get(m.RESULTS) == len(traces)
    issued = sum(len(frame.head["issues"]) for frame in frames if frame.head.get("note") == "issued")
    assert seen.by(m.ISSUES, "sending") == {"first": issued}
    calls = Counter(call.name for trace in traces for turn in trace.turns for call in turn.calls)
    assert seen.by(m.CALLS, "pool") == calls
    assert set(calls) <= set(POOLS)
    assert seen.by(m.CALLS, "outcome") == {"ok": calls.total()}
    nominal = sum(trace.components.cost_usd for trace in traces)
    assert seen.get(m.USD, price="nominal") == pytest.approx(float(nominal))
    assert nominal > 0
    billed = sum(Decimal(frame.head["usd"]) for frame in frames if "usd" in frame.head)
    assert seen.get(m.USD, price="actual") == pytest.approx(float(billed))
    said = sum(turn.meter.tokens_out for trace in traces for turn in trace.turns)
    assert seen.get(m.TOKENS, pool="policy", kind="completion") == said > 0
    of_pool = sum(c.meter.tokens_in for t in traces for turn in t.turns for c in turn.calls if c.name == POOLS[0])
    assert seen.get(m.TOKENS, pool=POOLS[0], kind="prompt") == of_pool
    assert seen.get(m.EPISODE_TIME) == pytest.approx(sum(trace.components.wall_seconds for trace in traces))
    seconds = sum(c.meter.service_seconds for t in traces for turn in t.turns for c in turn.calls)
    assert seen.get(m.CALL_TIME) == pytest.approx(seconds)


async def test_what_is_dropped_is_wasted_and_counted_as_the_line_counts_it(tmp_path: Path) -> None:
    prompts: list[str] = []

    def reply(prompt: str) -> str:
        prompts.append(prompt)
        if len(prompts) > 1 and prompt == prompts[0]:
            raise EngineLost("all siblings but one fail")
        return answer(POOLS[len(prompts) % 2])

    scene = Scene(tmp_path, reply=reply, steps=1, when_short="Refill")
    seen = metered(scene)
    async with scene.running():
        (row,) = await scene.train()
    assert seen.by(m.DROPPED_GROUPS, "outcome") == row["groups_dropped"]
    dropped = [i for f in journal(scene) if "group" in f.head and "reason" in f.head for i in f.head["issues"]]
    wasted = [trace for trace in traces_of(journal(scene)) if trace.issue in dropped]
    assert row["groups_dropped"] == {"too_few_scored": 1}
    assert seen.get(m.WASTED, outcome="too_few_scored") == len(dropped) == 1
    failed = sum(frame.kind is Kind.UNSCORED for frame in journal(scene))
    assert seen.get(m.WASTED, outcome="failed") == seen.get(m.RESULTS, outcome="failed") == failed == 9
    assert seen.get(m.EXCLUDED, ending="engine_lost") == 3
    assert seen.get(m.WASTED_TOKENS, outcome="too_few_scored") == sum(
        turn.meter.tokens_out for trace in wasted for turn in trace.turns
    )


async def test_an_outage_is_seen_as_deferred_results_and_an_expert_that_is_waited_for(tmp_path: Path) -> None:
    out = ExpertUnavailable(
        pool="pool-dear", reason=ExpertReason.CONNECTION, detail="connection refused", usage=Usage()
    )
    experts = FakeExperts({"pool-dear": lambda: r"\boxed{1}" if back.is_set() else out})
    back = asyncio.Event()
    scene = Scene(tmp_path, reply=either([]), experts=experts, steps=1)
    seen = metered(scene)
    gauges = Gauges(
        recorder=scene.controller.recorder,
        ledger=lambda: scene.journalled.ledger,
        pools=POOLS,
        engines=lambda: ["ready", "restarting"],
        depth=scene.bus.depth,
    )
    async with scene.running() as controller:
        step = asyncio.create_task(controller.step())
        while len(scene.journalled.history.recorded) < 8:
            await asyncio.wait({step}, timeout=0.05)
        gauges._look(0.25)
        waiting = seen.by(m.EXPERT_OUT, "pool"), seen.by(m.OPEN_EPISODES, "state")
        back.set()
        await asyncio.wait_for(step, 30)
    gauges._look(0.0)
    assert waiting[0] == {"pool-cheap": 0, "pool-dear": 1}
    assert waiting[1]["deferred"] == 4
    assert seen.by(m.EXPERT_OUT, "pool") == {"pool-cheap": 0, "pool-dear": 0}
    assert seen.by(m.ENGINES, "state") == {"starting": 0, "ready": 1, "restarting": 1}
    assert seen.get(m.RESULTS, outcome="deferred", ending="expert_unavailable") == 4
    assert seen.get(m.CALLS, pool="pool-dear", outcome="unavailable") == 4
    assert seen.get(m.ISSUES, sending="again") == 4
    assert seen.get(m.WASTED, outcome="deferred") == 4


async def test_dead_letters_and_who_they_exclude(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), experts=Flaky(actual_usd=Decimal(0)), steps=1)
    scene.bus.max_deliver = 1
    seen = metered(scene)
    scene.controller.recorder.write(measurements.beginning)
    assert seen.get(m.DEAD_LETTERS) == seen.get(m.RESULTS) == seen.get(m.STEPS) == 0.0
    async with scene.running():
        await scene.train()
    unscored = [frame for frame in journal(scene) if frame.kind is Kind.UNSCORED]
    assert seen.get(m.DEAD_LETTERS) == len(unscored) > 0
    assert seen.get(m.RESULTS, ending="worker_lost", outcome="failed") == len(unscored)
    lost = [frame for frame in journal(scene) if "episode" in frame.head]
    assert seen.by(m.EXCLUDED, "ending") == {"other": len(lost)}, "a worker's words are no label"


async def test_a_duplicate_is_paid_once_and_a_late_one_is_wasted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1)
    seen = metered(scene)
    async with scene.running() as controller:
        await scene.train()
        (trace, *_) = traces_of(journal(scene))
        dollars = seen.get(m.USD)
        arrival = Arrival(dispatch=Dispatch.parse(trace.issue), trace=trace, body=b"")
        controller.recorder.write(measurements.of_arrival, arrival, verdict="duplicate", purpose="train")
        assert seen.get(m.USD) == dollars
        controller.recorder.write(measurements.of_arrival, arrival, verdict="late", purpose="train")
    assert seen.get(m.RESULTS, outcome="duplicate") == seen.get(m.RESULTS, outcome="late") == 1
    assert seen.get(m.USD) > dollars
    assert seen.get(m.WASTED_TOKENS, outcome="late") == sum(turn.meter.tokens_out for turn in trace.turns)


async def test_evaluations_are_told_apart_from_training(tmp_path: Path) -> None:
    engine = FakeEngine(RENDERER, lambda prompt: answer("pool-cheap"))
    seen = Measured()
    life = Life(tmp_path, FakeExperts(), engine)
    evaluator = life.evaluator
    async with life.running():
        evaluator.recorder = seen.recorder
        done = await asyncio.wait_for(evaluator.run(EvaluationRun(life.suite, "policy", "policy"), into=tmp_path), 30)
    assert seen.by(m.RESULTS, "purpose") == {"evaluate": done.scored}
    assert seen.get(m.USD, price="actual", purpose="evaluate") == pytest.approx(float(life.spent))
    figures = {"step": 4, "reward": 0.5, "accuracy": 0.25, "nominalUSDPerTask": 0.01, "tasks": 8}
    evaluator.recorder.write(measurements.of_evaluation, "sums", figures)
    for key, instrument in m.EVALUATION.items():
        assert seen.get(instrument, suite="sums") == figures[key]


async def test_no_label_holds_an_episode_or_a_text(tmp_path: Path) -> None:
    """Whatever went wrong, labels are those of the catalogue and their values come from closed lists."""
    known = {instrument.name: instrument for instrument in m.CONTROLLER}
    scene = Scene(tmp_path, reply=either([]), experts=Flaky(actual_usd=Decimal(0)), steps=1)
    scene.bus.max_deliver = 1
    seen = metered(scene)
    async with scene.running():
        await scene.train()
    for name, points in seen.all().items():
        for labels in points:
            assert dict(labels).keys() == {"training", *known[name].labels}, name
            assert not [value for _, value in labels if "uid" in value or " " in value], labels
