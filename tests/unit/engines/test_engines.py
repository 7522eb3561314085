"""Engines whose nodes are lost, whose keepers meet what nobody thought of, whose weights take long to load."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from toolorchestra.engines import actor as engine_actor
from toolorchestra.engines import server as engine_server
from toolorchestra.engines.actor import EngineActor, EngineStatus
from toolorchestra.engines.arguments import EngineConfig
from toolorchestra.engines.fleet import Engines
from toolorchestra.engines.server import EngineNotReady, EngineServer
from toolorchestra.engines.startup import Patience, Progress, signs_of
from toolorchestra.weights.snapshot import Snapshot, SnapshotError


def version(text: str) -> Snapshot:
    return Snapshot(path="p", version=text, digest="d")


# -- the controller's side: actors that die -----------------------------------------------------------------------


class Remote:
    """One method of an actor, as Ray's handle has it."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


class FakeActor:
    """An actor without Ray. `die` is the loss of its node: every call fails until `come_back`."""

    def __init__(self, name: str, *, state: str = "ready") -> None:
        self.status = EngineStatus(name, state=state, url=f"http://{name}")  # type: ignore[arg-type]
        self.dead: ray.exceptions.RayError | None = None
        self.dies_of_a_load = False
        self.changed = asyncio.Event()
        self.told: list[str] = []
        self.wait_status, self.load, self.adopt = Remote(self._wait), Remote(self._load), Remote(self._load)

    def set(self, **fields: Any) -> None:
        self.status = EngineStatus(**{**vars(self.status), **fields})
        self.changed.set()
        self.changed = asyncio.Event()

    def die(self) -> None:
        self.dead = ray.exceptions.ActorDiedError()
        self.changed.set()
        self.changed = asyncio.Event()

    def come_back(self) -> None:
        """A new life of the actor, which knows of no snapshot."""
        self.dead, self.dies_of_a_load = None, False
        self.set(version=None, wanted=None, state="ready")

    async def _wait(self, seen: EngineStatus, timeout: float) -> EngineStatus:
        while self.status == seen and self.dead is None:
            await self.changed.wait()
        if self.dead is not None:
            raise self.dead
        return self.status

    async def _load(self, snapshot: Snapshot) -> EngineStatus:
        self.told.append(snapshot.version)
        if self.dies_of_a_load:
            self.die()
        if self.dead is not None:
            raise self.dead
        fields = {"version": snapshot.version} if self.status.state == "ready" else {}
        self.set(wanted=snapshot.version, **fields)
        return self.status


class Scene:
    """Engines over fake actors, with what they publish and say."""

    def __init__(self, count: int, **settings: Any) -> None:
        self.actors = [FakeActor(f"engine-{i}", **settings) for i in range(count)]
        self.published: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.heard = asyncio.Event()
        self.engines = Engines(
            count,
            actor=lambda i: self.actors[i],
            put=self._put,
            on_change=lambda status: None,
            on_wait=self._say,
        )

    async def _put(self, key: str, value: bytes) -> None:
        self.published.append(json.loads(value))

    def _say(self, words: str) -> None:
        self.said.append(words)
        self.heard.set()

    @property
    def routable(self) -> dict[str, str]:
        return {e["url"]: e["version"] for e in self.published[-1]["engines"] if e["routable"]}

    async def until(self, holds: Callable[[], bool]) -> None:
        async with self.engines._ready, asyncio.timeout(10):
            await self.engines._ready.wait_for(holds)


@contextmanager
def watched(scene: Scene) -> Iterator[None]:
    task = asyncio.create_task(scene.engines.watch())
    try:
        yield
    finally:
        task.cancel()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolorchestra.engines.fleet.RETRY_SECONDS", 0.01)


async def test_that_no_engine_serves_any_more_is_said_once_and_taken_back() -> None:
    """Between two loads too: meanwhile episodes wait without an end."""
    scene = Scene(2)
    with watched(scene):
        await scene.until(lambda: all(s.state == "ready" for s in scene.engines.statuses))
        await scene.engines.load(version("0-1"))
        assert scene.said == [""]
        scene.actors[0].set(state="restarting", last_error="it dumped core")
        await scene.until(lambda: scene.engines.statuses[0].state == "restarting")
        assert scene.said == [""], "the other one serves"
        scene.actors[1].set(state="restarting", last_error="no memory")
        await scene.until(lambda: scene.engines.statuses[1].state == "restarting")
        said = scene.said[1:]
        assert said == [
            "waiting for an engine with version 0-1: engine-0 is restarting it dumped core; "
            "engine-1 is restarting no memory"
        ]
        scene.actors[1].come_back()
        await scene.until(lambda: scene.routable == {"http://engine-1": "0-1"})
    assert scene.said[-1] == ""


async def test_the_loss_of_a_node_during_a_load_is_that_engines_alone() -> None:
    scene = Scene(2)
    with watched(scene):
        await scene.until(lambda: all(s.state == "ready" for s in scene.engines.statuses))
        scene.actors[0].dies_of_a_load = True
        await scene.engines.load(version("0-1"))
        assert not scene.published[-1]["paused"]
        assert scene.routable == {"http://engine-1": "0-1"}
        assert "its actor does not answer" in scene.engines.statuses[0].last_error
        scene.actors[0].come_back()
        await scene.until(lambda: scene.engines.statuses[0].version == "0-1")
        await scene.until(lambda: len(scene.routable) == 2)


async def test_the_loss_of_the_only_engine_is_waited_out_and_said() -> None:
    scene = Scene(1)
    with watched(scene):
        await scene.until(lambda: scene.engines.statuses[0].state == "ready")
        scene.actors[0].dies_of_a_load = True
        load = asyncio.create_task(scene.engines.load(version("0-1")))
        await asyncio.wait_for(scene.heard.wait(), 10)
        assert not load.done()
        assert scene.said[0].startswith("waiting for an engine with version 0-1: engine-0 is restarting its actor")
        assert not scene.published[-1]["paused"]
        scene.actors[0].come_back()
        await asyncio.wait_for(load, 10)
        assert scene.said[-1] == ""
        assert scene.routable == {"http://engine-0": "0-1"}


async def test_a_write_that_is_tried_again_never_undoes_a_newer_one() -> None:
    """A watcher writes during a pause, unacknowledged: repeated later, it would pause the workers for good."""
    scene = Scene(1)
    began, acknowledged = asyncio.Event(), asyncio.Event()

    async def put(key: str, value: bytes) -> None:
        if not began.is_set():
            began.set()
            await acknowledged.wait()  # the time-out, after which it is written once more
        scene.published.append(json.loads(value))

    scene.engines._put = put
    scene.engines._paused = True
    watcher = asyncio.create_task(scene.engines._publish())
    await began.wait()
    scene.engines._paused = False
    load = asyncio.create_task(scene.engines._publish())
    await asyncio.wait({load}, timeout=0.05)
    acknowledged.set()
    await asyncio.gather(watcher, load)
    assert scene.published[-1]["paused"] is False


async def test_engines_that_are_down_are_told_when_they_come_up() -> None:
    scene = Scene(2)
    scene.actors[1].set(state="starting")
    with watched(scene):
        await scene.until(lambda: scene.engines.statuses[0].state == "ready")
        await scene.engines.load(version("0-1"), adopt=True)
        assert scene.routable == {"http://engine-0": "0-1"}
        scene.actors[1].set(state="ready", version="0-1")
        await scene.until(lambda: len(scene.routable) == 2)


async def test_only_the_newest_weights_are_routable() -> None:
    scene = Scene(2)
    with watched(scene):
        await scene.until(lambda: all(s.state == "ready" for s in scene.engines.statuses))
        await scene.engines.load(version("0-1"))
        scene.actors[1].set(state="restarting", version=None)
        await scene.until(lambda: scene.engines.statuses[1].state == "restarting")
        await scene.engines.load(version("0-2"))
        scene.actors[1].set(state="ready", version="0-1", wanted="0-2")
        await scene.until(lambda: scene.engines.statuses[1].version == "0-1")
        assert scene.routable == {"http://engine-0": "0-2"}


async def test_a_load_that_is_cancelled_ends_its_pause() -> None:
    scene = Scene(1)
    with watched(scene):
        await scene.until(lambda: scene.engines.statuses[0].state == "ready")
        asked = asyncio.Event()

        async def hang(snapshot: Snapshot) -> None:
            asked.set()
            await asyncio.Event().wait()

        scene.actors[0].load = Remote(hang)
        load = asyncio.create_task(scene.engines.load(version("0-1")))
        await asyncio.wait_for(asked.wait(), 10)
        assert scene.published[-1]["paused"]
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
        assert not scene.published[-1]["paused"]


# -- the actor's side: a keeper that nothing kills ----------------------------------------------------------------


class FakeControl:
    def __init__(self, server: FakeServer) -> None:
        self.server = server

    def call(self, method: str, path: str) -> dict[str, str]:
        self.server.meet("version")
        return {"version": "0.32"}

    def update(self, snapshot: Snapshot) -> None:
        self.server.meet("update")


class FakeServer:
    """Fails as it is told to: `trouble[what]` are the exceptions of the next calls."""

    pid = 1

    def __init__(self) -> None:
        self.trouble: dict[str, list[Exception]] = {}
        self.control = FakeControl(self)

    def meet(self, what: str) -> None:
        if waiting := self.trouble.get(what):
            raise waiting.pop(0)

    def start(self) -> str:
        self.meet("start")
        return "http://e"

    def check_answers(self, *, timeout: float) -> None:
        self.meet("check")

    def stop(self, *, grace: float = 10.0) -> None:
        self.meet("stop")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer()
    monkeypatch.setattr(engine_actor, "EngineServer", lambda config, log: server)
    monkeypatch.setattr(engine_actor, "CHECK_SECONDS", 0.01)
    return server


def reached(actor: EngineActor, holds: Callable[[EngineStatus], bool]) -> EngineStatus:
    status = actor.status()
    while not holds(status):
        after = actor.wait_status(status, 10.0)
        assert after != status, f"nothing happened: {status}"
        status = after
    return status


@pytest.mark.parametrize("where", ["start", "version", "check", "stop"])
def test_the_keeper_outlives_what_nobody_thought_of(server: FakeServer, where: str) -> None:
    server.trouble = {where: [PermissionError(13, "no more files"), KeyError("version")]}
    actor = EngineActor(name="engine-0", config=EngineConfig(model_dir="m"), log=Path("log"))
    status = reached(actor, lambda s: s.state == "ready" and s.restarts == 2)
    assert status.last_error == "KeyError: 'version'"
    actor.load(version("0-1"))
    assert actor.status().routable
    actor.stop()


@pytest.mark.parametrize("error", [SnapshotError("has digest 1"), OSError(116, "Stale file handle")])
def test_weights_that_cannot_be_read_leave_the_engine_unrouted_and_are_tried_again(
    server: FakeServer, error: Exception
) -> None:
    actor = EngineActor(name="engine-0", config=EngineConfig(model_dir="m"), log=Path("log"))
    reached(actor, lambda s: s.state == "ready")
    assert actor.load(version("0-1")).routable
    server.trouble = {"update": [error]}
    assert not actor.load(version("0-2")).routable
    assert reached(actor, lambda s: s.version == "0-2").restarts == 0
    actor.stop()


# -- a start's patience -------------------------------------------------------------------------------------------


def test_a_start_is_waited_for_while_it_gets_on() -> None:
    progress = Progress(Patience(total=1000, standing=10), now=0.0)
    assert not any(progress.over((0, second), now=float(second)) for second in range(500))
    assert not progress.over((0, 499), now=505.0)
    assert progress.over((0, 499), now=510.0) == "510 s, without any output, reading or computing for 10 s"
    assert progress.over((0, 1001), now=1001.0) == "1000 s (spec.ray.engines.startTimeoutSeconds)"


def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> EngineServer:
    monkeypatch.setattr(engine_server, "engine_arguments", lambda config, port, base: [sys.executable, "-c", code])
    return EngineServer(EngineConfig(model_dir="m"), log=tmp_path / "engine.log")


@pytest.mark.parametrize(
    "work",
    [
        "print('shard', flush=True); time.sleep(0.1)",
        "open('/dev/zero', 'rb').read(1 << 21); time.sleep(0.1)",
        "keep.append(bytes(b'x') * (20 << 20)); time.sleep(0.1)",
    ],
)
def test_reading_saying_and_filling_memory_are_progress(
    work: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It works for 3 s, then stands still: stopped after that, not before."""
    loop = f"while time.monotonic() < until:\n  {work}\n"
    code = f"import time; keep = []; until = time.monotonic() + 3\n{loop}time.sleep(60)"
    server = scripted(monkeypatch, tmp_path, code)
    with pytest.raises(EngineNotReady, match=r"within (\d+) s, without any output") as caught:
        server.start(patience=Patience(total=60, standing=1.0))
    assert int(str(caught.value).split("within ")[1].split(" s")[0]) >= 4
    assert not server.alive()


def test_the_signs_of_a_process_that_is_gone_are_those_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("12345")
    assert signs_of(2**22 + 1, tmp_path / "log") == (5, 0, 0, 0)
