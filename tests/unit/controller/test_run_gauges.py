"""Gauges, the loop's lag, and what a job and a driver make of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from support.controller_scene import POOLS, Scene, either
from support.evaluator_life import Flaky
from support.metric_points import Measured
from support.real_run import TINY_RUN
from support.run_meters import metered
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import BusUnavailable, Depth
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.controller import driver
from toolorchestra.controller.incarnation.assignment import assignment_of
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.controller.incarnation.engines import EngineNews
from toolorchestra.controller.incarnation.evaluation import evaluation_of
from toolorchestra.controller.incarnation.incarnation import Incarnation as Incarnation
from toolorchestra.controller.incarnation.recovered import RecoveredLedger, open_ledger
from toolorchestra.controller.incarnation.watch import start_watch
from toolorchestra.controller.monitoring import gauges as gauges_module
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.monitoring.gauges import Gauges
from toolorchestra.controller.pauses import Paused
from toolorchestra.controller.wire import BusWire
from toolorchestra.engines.actor import EngineStatus
from toolorchestra.engines.fleet import Engines
from toolorchestra.ledger.ledger import Ledger
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.telemetry import metrics as m


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
        assert [record.getMessage() for record in caplog.records] == ["some metrics could not be recorded"]
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
        ledger=lambda: scene.journalled.ledger,
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

    for name in ("of_arrival", "of_step", "of_books", "of_dispatch"):
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
        scene.controller.recorder.write(measurements.of_books, scene.journalled.ledger, now=time.time())
    spend = scene.journalled.ledger.spend
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
    """The wiring of the real job: its own ledger, pools, engines and bus."""
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
    journalled = open_ledger(given, None).journalled
    start_watch(given, journalled=journalled, engines=engines, bus=bus, background=background)
    await until(lambda: {m.LOOP_LAG.name, m.QUEUE.name, m.ENGINES.name} <= seen.all().keys())
    assert len(background.running()) == 2
    await background.end()
    assert seen.get(m.STEPS_GOAL, training="tiny") == 10
    assert seen.by(m.EXPERT_OUT, "pool") == {"small": 0, "large": 0}
    assert seen.by(m.ENGINES, "state") == {"starting": 1, "ready": 1, "restarting": 0}
    ready = asyncio.get_running_loop().create_future()
    evaluation = evaluation_of(given, journalled, BusWire(bus), controller=ready)
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
    start_watch(given, journalled=open_ledger(given, None).journalled, engines=engines, bus=bus, background=background)
    assert background.tasks == []


async def test_the_last_status_of_a_job_has_what_was_spent_after_its_last_step(tmp_path: Path) -> None:
    """The evaluation at the end, say; and what is not billed yet."""
    resources = (TINY_RUN / "training.yaml",)
    config = DriverConfig(
        uid="uid", run=tmp_path, nats_url="", ray_address="", resources=resources, model_dir=tmp_path, volumes={}
    )
    given = assignment_of(config, RunDir(tmp_path))
    job = Incarnation(given)
    await job.finish("Failed", message="it never began")
    assert "spentUSD" not in given.run.read_status()
    scene = Scene(tmp_path / "scene", reply=either([]), steps=1)
    job.ending = replace(job.ending, money=RecoveredLedger(scene.journalled, scene.recovery).money)
    scene.journalled.ledger.spend.settled = Decimal("0.75")
    scene.journalled.ledger.spend.reserve("uid.0.0.0.0", Decimal("0.5"))
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
    await run.controller.dispatcher.send(run.journalled.admit(now=time.time()))
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
