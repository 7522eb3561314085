"""A run's metrics say what its metrics.jsonl and its journal say: figures that are read off the same records."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from support.controller_scene import POOLS, Scene, either
from support.episode_world import RENDERER, FakeExperts, answer
from support.evaluator_life import Flaky, Life
from support.metric_points import Measured
from support.real_run import TINY_RUN
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import BusUnavailable, Depth
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.controller import driver
from toolorchestra.controller.arrival import Arrival
from toolorchestra.controller.evaluator import Job
from toolorchestra.controller.incarnation.assignment import assignment_of
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.controller.incarnation.books import Books, open_books
from toolorchestra.controller.incarnation.engines import EngineNews
from toolorchestra.controller.incarnation.evaluation import evaluation_of
from toolorchestra.controller.incarnation.watch import start_watch
from toolorchestra.controller.job import Job as TrainingJob
from toolorchestra.controller.monitoring import gauges as gauges_module
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.monitoring.gauges import Gauges
from toolorchestra.controller.pauses import Paused
from toolorchestra.controller.wire import BusWire
from toolorchestra.engines.actor import EngineStatus
from toolorchestra.engines.fleet import Engines
from toolorchestra.experts.errors import ExpertUnavailable
from toolorchestra.experts.errors import Reason as ExpertReason
from toolorchestra.experts.usage import Usage
from toolorchestra.ledger.journal import Frame, Kind, read_frames
from toolorchestra.ledger.ledger import Ledger
from toolorchestra.policy.engine import EngineLost
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.rollout.identity import Issue
from toolorchestra.rollout.trace import Trace
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.telemetry import metrics as m


def metered(scene: Scene) -> Measured:
    """The scene's controller and wire tell a reader."""
    seen = Measured()
    scene.controller.recorder = seen.recorder
    scene.controller.wire = BusWire(scene.bus, recorder=seen.recorder)
    scene.controller.outbox.wire = scene.controller.wire
    return seen


def journal(scene: Scene) -> list[Frame]:
    scene.books.flush()
    return list(read_frames(scene.books.journal.path))


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
        ledger=lambda: scene.books.ledger,
        pools=POOLS,
        engines=lambda: ["ready", "restarting"],
        depth=scene.bus.depth,
    )
    async with scene.running() as controller:
        step = asyncio.create_task(controller.step())
        while len(scene.books.history.recorded) < 8:
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
        arrival = Arrival(issue=Issue.parse(trace.issue), trace=trace, body=b"")
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
        done = await asyncio.wait_for(evaluator.run(Job(life.suite, "policy", "policy"), into=tmp_path), 30)
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


@pytest.mark.parametrize("broken", ["books", "bus"])
async def test_figures_that_fail_end_nothing(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gauges_module, "LAG_SECONDS", 0.001)
    monkeypatch.setattr(gauges_module, "GAUGE_SECONDS", 0.001)
    monkeypatch.setattr(gauges_module, "DEPTH_SECONDS", 0.001)
    asked: list[int] = []

    async def depth() -> Depth:
        asked.append(1)
        if broken == "bus" and len(asked) < 3:
            raise BusUnavailable("no answer")
        return Depth(queued=3, leased=2, results=1, redelivered=1)

    seen = Measured()
    ledger = Ledger.__new__(Ledger) if broken == "books" else None  # without a single field
    gauges = Gauges(
        recorder=seen.recorder,
        ledger=lambda: ledger,  # type: ignore[arg-type, return-value]
        pools=POOLS,
        engines=lambda: ["ready"],
        depth=depth,
    )
    tasks = [asyncio.create_task(gauges.watch_bus())]
    if broken == "books":
        gauges.recorder.write(broken_reader)
        gauges.recorder.write(broken_reader)
        assert [record.getMessage() for record in caplog.records] == ["metrics are missing some figures"]
    while len(asked) < 5:
        await asyncio.sleep(0)
        assert not tasks[0].done()
    tasks[0].cancel()
    assert seen.by(m.QUEUE, "state") == {"queued": 3, "leased": 2, "results": 1}
    assert seen.get(m.REDELIVERED) == 1


def broken_reader():  # type: ignore[no-untyped-def]
    raise KeyError("a figure that no record has")


async def test_the_loops_lag_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges_module, "LAG_SECONDS", 0.001)
    monkeypatch.setattr(gauges_module, "GAUGE_SECONDS", 0.0)
    scene = Scene(tmp_path, reply=either([]), steps=1)
    seen = metered(scene)
    gauges = Gauges(
        recorder=scene.controller.recorder,
        ledger=lambda: scene.books.ledger,
        pools=POOLS,
        engines=list,
        depth=scene.bus.depth,
    )
    watching = asyncio.create_task(gauges.watch())
    await until(lambda: m.LOOP_LAG.name in seen.all())
    watching.cancel()
    assert seen.get(m.LOOP_LAG) >= 0
    assert seen.get(m.INCARNATION) == 0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_run_without_an_exporter_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured for nobody")

    for name in ("of_arrival", "of_step", "of_books", "of_issue"):
        monkeypatch.setattr(f"toolorchestra.controller.monitoring.measurements.{name}", never)
    scene = Scene(tmp_path, reply=either([]), steps=1)
    async with scene.running():
        assert len(await scene.train()) == 1


async def test_a_cap_is_a_gauge_and_so_is_what_is_reserved(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=3, cap=Decimal("4.5"))
    seen = metered(scene)
    async with scene.running():
        with pytest.raises(Paused):
            await scene.train()
        scene.controller.recorder.write(measurements.of_books, scene.books.ledger, now=time.time())
    spend = scene.books.ledger.spend
    assert seen.get(m.CAP) == 4.5
    assert seen.by(m.SPEND, "state") == {"settled": float(spend.settled), "reserved": float(spend.held)}


def test_a_driver_whose_port_is_taken_says_so_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("die_with_parent", "configure_logs"):  # which are about its process: here, the tests'
        monkeypatch.setattr(driver, name, lambda **_: None)
    config = DriverConfig(uid="uid", run=tmp_path, nats_url="", ray_address="", resources=(), model_dir=tmp_path)
    config.write(tmp_path / "driver.json")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", port)
        with pytest.raises(SystemExit) as ended:
            driver.main(["--config", str(tmp_path / "driver.json")])
    # A text is what Python prints before it ends with status 1.
    said = str(ended.value.code)
    assert said.startswith("error: ")
    assert f"OTEL_EXPORTER_PROMETHEUS_PORT={port}: cannot serve metrics there" in said


async def test_a_job_watches_what_it_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wiring of the real job: its own books, pools, engines and bus."""
    monkeypatch.setattr(gauges_module, "LAG_SECONDS", 0.001)
    monkeypatch.setattr(gauges_module, "GAUGE_SECONDS", 0.0)
    seen = Measured()
    files = (TINY_RUN / "training.yaml",)
    config = DriverConfig(
        uid="uid",
        run=tmp_path,
        nats_url="",
        ray_address="",
        resources=files,
        model_dir=tmp_path,
        volumes={"models": tmp_path},
    )
    given, bus, background = assignment_of(config, RunDir(tmp_path), otel=seen.meter), MemoryBus(), Background()
    news = EngineNews(given.run, given.status)
    engines = Engines(0, actor=str, put=bus.put, on_change=news.changed, on_wait=news.awaited)
    engines.statuses = [EngineStatus("engine-0", state="ready"), EngineStatus("engine-1")]
    books = open_books(given, None).keeper
    start_watch(given, books=books, engines=engines, bus=bus, background=background)
    await until(lambda: {m.LOOP_LAG.name, m.QUEUE.name, m.ENGINES.name} <= seen.all().keys())
    assert len(background.running()) == 2
    await background.end()
    assert seen.get(m.STEPS_GOAL, training="tiny") == 10
    assert seen.by(m.EXPERT_OUT, "pool") == {"small": 0, "large": 0}
    assert seen.by(m.ENGINES, "state") == {"starting": 1, "ready": 1, "restarting": 0}
    ready = asyncio.get_running_loop().create_future()
    evaluation = evaluation_of(given, books, BusWire(bus), controller=ready)
    assert evaluation.evaluator.recorder is given.recorder


async def test_a_job_without_an_exporter_watches_nothing(tmp_path: Path) -> None:
    config = DriverConfig(
        uid="uid",
        run=tmp_path,
        nats_url="",
        ray_address="",
        resources=(TINY_RUN / "training.yaml",),
        model_dir=tmp_path,
        volumes={"models": tmp_path},
    )
    given, bus, background = assignment_of(config, RunDir(tmp_path)), MemoryBus(), Background()
    news = EngineNews(given.run, given.status)
    engines = Engines(0, actor=str, put=bus.put, on_change=news.changed, on_wait=news.awaited)
    start_watch(given, books=open_books(given, None).keeper, engines=engines, bus=bus, background=background)
    assert background.tasks == []


async def test_the_last_status_of_a_job_has_what_was_spent_after_its_last_step(tmp_path: Path) -> None:
    """The evaluation at the end, say; and what is not billed yet."""
    resources = (TINY_RUN / "training.yaml",)
    config = DriverConfig(
        uid="uid", run=tmp_path, nats_url="", ray_address="", resources=resources, model_dir=tmp_path, volumes={}
    )
    given = assignment_of(config, RunDir(tmp_path))
    job = TrainingJob(given)
    await job.finish("Failed", message="it never began")
    assert "spentUSD" not in given.run.read_status()
    scene = Scene(tmp_path / "scene", reply=either([]), steps=1)
    job.ending = replace(job.ending, money=Books(scene.books, scene.recovery).money)
    scene.books.ledger.spend.settled = Decimal("0.75")
    scene.books.ledger.spend.reserve("uid.0.0.0.0", Decimal("0.5"))
    await job.finish("Complete", message="all steps are done")
    status = given.run.read_status()
    assert (status["spentUSD"], status["reservedUSD"]) == ("0.75", "0.5")
    EngineNews(given.run, given.status).awaited("waiting for an engine")  # it stops with the run
    assert given.run.read_status()["message"] == "all steps are done"


async def test_workers_count_what_they_alone_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, run = (
        Measured(training=None),
        Scene(tmp_path, reply=either([]), experts=Flaky(actual_usd=Decimal(0)), steps=1),
    )
    monkeypatch.setattr("toolorchestra.rollout.worker._recorder", mine.recorder)
    theirs = metered(run)
    await run.controller.dispatch.send(run.books.admit(now=time.time()))
    (vanished,) = await run.bus.lease(max_n=1, expiry=1)
    await run.bus.hand_back(vanished)
    async with run.running():
        await run.train()
    assert theirs.get(m.DEAD_LETTERS) > 0
    assert mine.get(m.WORKER_REDELIVERIES) == 1
    stored = {"purpose": "train", "ending": "answered"}
    assert mine.get(m.WORKER_EPISODES, **stored) == theirs.get(m.RESULTS, **stored) > 0
    for name, points in mine.all().items():
        (instrument,) = (one for one in m.WORKER if one.name == name)
        assert all(dict(labels).keys() == set(instrument.labels) for labels in points)
