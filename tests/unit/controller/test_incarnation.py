"""An incarnation's start, broken off at every stage: all that was opened is closed, and what ends a run is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.real_run import TINY_RUN
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.controller.incarnation.assignment import assignment_of
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.controller.incarnation.closing import Closing
from toolorchestra.controller.incarnation.incarnation import Incarnation
from toolorchestra.controller.incarnation.makers import Makers
from toolorchestra.controller.incarnation.recovered import open_ledger
from toolorchestra.controller.pauses import Stopped
from toolorchestra.runs.run_dir import RunDir

STAGES = ("check_model", "connect", "start_engines", "open_books", "start_trainers", "load")


class Broken(Exception):
    """What a stage fails with."""


@dataclass
class World:
    """Parts that note their end. `at` is called with the name of every stage that begins."""

    folder: Path
    at: Callable[[str], None] = lambda stage: None
    closed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = DriverConfig(
            uid="uid",
            run=self.folder,
            nats_url="",
            ray_address="",
            resources=(TINY_RUN / "training.yaml",),
            model_dir=self.folder,
            volumes={"models": self.folder},
        )
        makers = Makers(
            check_model=lambda assignment: self.at("check_model"),
            connect=self._connect,
            start_engines=lambda *_: self._engines(),  # type: ignore[arg-type, return-value]
            open_ledger=self._books,
            start_trainers=self._trainers,  # type: ignore[arg-type]
        )
        given = assignment_of(config, RunDir(self.folder))
        evaluation = given.spec.evaluation.model_copy(update={"baselines": False})
        spec = given.spec.model_copy(update={"evaluation": evaluation})
        given = replace(given, training=given.training.model_copy(update={"spec": spec}))
        self.job = Incarnation(given, makers)

    async def _connect(self, url: str, **_: Any) -> MemoryBus:
        self.at("connect")
        world = self

        class Bus(MemoryBus):
            async def close(self) -> None:
                world.closed.append("bus")
                await super().close()

        return Bus()

    def _engines(self) -> Any:
        self.at("start_engines")
        world = self

        class Engines:
            statuses: tuple[()] = ()

            async def watch(self) -> None:
                await asyncio.Event().wait()

            async def load(self, snapshot: Any, *, adopt: bool = False) -> None:
                await asyncio.Event().wait()

            async def stop(self) -> None:
                world.closed.append("engines")

        return Engines()

    def _books(self, *args: Any) -> Any:
        self.at("open_books")
        return open_ledger(*args)

    async def _trainers(self, *_: Any) -> Any:
        self.at("start_trainers")
        world = self

        class Trainers:
            async def set_rng(self, seed: int) -> None:
                world.at("load")

            async def snapshot(self, folder: Path, *, version: str) -> Any:
                return None

            def close(self) -> None:
                world.closed.append("trainers")

        return Trainers()


def fails_at(stage: str) -> Callable[[str], None]:
    def at(begins: str) -> None:
        if begins == stage:
            raise Broken(stage)

    return at


@pytest.mark.parametrize("keep_engines", [True, False])
@pytest.mark.parametrize(("stage", "opened"), tuple(zip(STAGES, (0, 0, 1, 2, 2, 3), strict=True)))
async def test_what_a_broken_stage_leaves_is_closed_the_last_first(
    tmp_path: Path, stage: str, opened: int, keep_engines: bool
) -> None:
    world = World(tmp_path, at=fails_at(stage))
    with pytest.raises(Broken, match=stage):
        await world.job.start()
    await world.job.finish("Failed", message="it broke")
    assert world.closed == []
    await world.job.close(keep_engines=keep_engines)
    parts = ["bus", "engines", "trainers"][:opened][::-1]
    assert world.closed == [part for part in parts if not (keep_engines and part == "engines")]
    assert world.job.background.running() == []
    status = RunDir(tmp_path).read_status()
    assert status["state"] == "Failed"
    assert ("spentUSD" in status) == (stage in ("start_trainers", "load")), "the books were open"


@pytest.mark.parametrize("stage", STAGES)
async def test_a_stop_in_any_stage_ends_it_as_stopped(tmp_path: Path, stage: str) -> None:
    """At the latest where it waits for an engine: none ever comes here."""
    world = World(tmp_path)
    world.at = lambda begins: world.job.stop() if begins == stage else None
    with pytest.raises(Stopped):
        await asyncio.wait_for(world.job.start(), 30)
    await world.job.ending.withdraw()
    await world.job.ending.save()
    await world.job.finish("Cancelled", message="stopped at step 0")
    await world.job.close(keep_engines=False)
    assert world.closed == ["trainers", "engines", "bus"]


async def test_the_wait_for_the_first_version_fails_with_a_task_that_does(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def fail() -> None:
        raise Broken("beside it")

    def at(begins: str) -> None:
        if begins == "load":
            world.job.background.spawn(fail())

    world.at = at
    with pytest.raises(Broken, match="beside it"):
        await asyncio.wait_for(world.job.start(), 30)
    await world.job.close(keep_engines=False)
    assert world.closed == ["trainers", "engines", "bus"]


async def test_what_cannot_be_closed_keeps_nothing_else_open() -> None:
    closing, closed = Closing(), list[str]()

    def broken() -> None:
        raise Broken

    closing.add(partial(closed.append, "first"))
    closing.add(broken)
    closing.add(partial(closed.append, "last"))
    with pytest.raises(Broken):
        await closing.close(keep_warm=False)
    assert closed == ["last", "first"]


def test_whoever_asks_after_the_stop_is_told_at_once() -> None:
    background, told = Background(), list[str]()
    background.on_stop(lambda: told.append("before"))
    background.stop()
    background.on_stop(lambda: told.append("after"))
    assert told == ["before", "after"]
