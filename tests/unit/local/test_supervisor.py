"""The supervisor's care for processes, with shell commands in the place of the real ones."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support.run_rig import make_run
from toolorchestra.api.load import load
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.gpus.devices import Gpu
from toolorchestra.local.compute import Compute
from toolorchestra.local.nats_server import NatsServer, NatsServerError
from toolorchestra.local.plan import LocalPlan
from toolorchestra.local.supervisor import (
    QUICK_LIMIT,
    Supervisor,
    SupervisorError,
    _watch,
    not_up,
    telemetry_environment,
)
from toolorchestra.process import Child
from toolorchestra.rollout.heartbeat import STOOD_STILL
from toolorchestra.runs.run_dir import RunDir, read_jsonl

TINY = Path(__file__).parents[2] / "support" / "tiny_run" / "training.yaml"


def test_what_does_not_come_up_is_said_with_why_and_what_to_do() -> None:
    silent, dead = not_up("Ray", alive=True, words="\n"), not_up("Ray", alive=False, words="no space left")
    assert silent.startswith(
        "Ray did not come up: after 120 s it is not ready, and its log is empty\nUsually the machine"
    )
    assert dead == "Ray did not come up: it ended by itself; the end of its log:\nno space left"


def tiny() -> LocalPlan:
    found = load(TINY)
    return LocalPlan(found.trainings[0], found.pools, Path("model"), {}, None, 0.0, ())


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    said: list[str] = []
    made = Supervisor(plan=tiny(), run=make_run(tmp_path), uid="u", say=said.append)
    try:
        yield made
    finally:
        await made._end()


async def test_snapshots_for_gpus_are_half_as_large(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is asked for what the run's own device makes."""
    asked: list[str] = []

    @contextmanager
    def no_place(run: RunDir, *, uid: str, model: Path, device: str, say: Callable[[str], None]) -> Iterator[Path]:
        asked.append(device)
        raise SupervisorError("enough")
        yield run.weights

    monkeypatch.setattr("toolorchestra.local.supervisor.snapshot_folder", no_place)
    gpu = Gpu(0, "GPU-1", "H100", 80 << 30)
    supervisor.plan = replace(supervisor.plan, compute=Compute(gpus=(gpu,)))
    with pytest.raises(SupervisorError, match="enough"):
        await supervisor.supervise()
    assert asked == ["cuda"]


def shell(supervisor: Supervisor, name: str, script: str) -> Child:
    return Child(name=name, argv=["/bin/sh", "-c", script], log=supervisor.run.logs / f"{name}.log")


async def until(seen: Callable[[], bool]) -> None:
    """Other processes raise no event here."""
    async with asyncio.timeout(20):
        while not seen():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def number_in(path: Path) -> int:
    """What a process has written; 0 before that."""
    text = path.read_text().strip() if path.exists() else ""
    return int(text or 0)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_a_killed_process_is_started_again_and_the_run_says_so(supervisor: Supervisor, tmp_path: Path) -> None:
    where = tmp_path / "pid"
    supervisor._keep(shell(supervisor, "worker-0", f"echo $$ > {where}; exec sleep 60"))
    await until(lambda: number_in(where) > 0)
    first = number_in(where)
    os.kill(first, signal.SIGKILL)
    await until(lambda: number_in(where) not in (0, first))
    second = number_in(where)
    (event,) = read_jsonl(supervisor.run.events)
    assert event["event"] == "restart"
    assert event["message"] == "worker-0 ended with status -9; starting it again"
    await supervisor._end()
    await until(lambda: gone(second))


async def test_a_worker_that_stood_still_is_started_again_and_the_run_says_why(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    supervisor._keep(
        shell(supervisor, "worker-0", f"test -e {mark} && exec sleep 60; touch {mark}; exit {STOOD_STILL}")
    )
    await until(supervisor.run.events.exists)
    (event,) = read_jsonl(supervisor.run.events)
    assert event["message"] == "worker-0 was blocked and ended itself; starting it again"


async def test_a_process_that_dies_again_and_again_ends_the_run_with_its_last_words(supervisor: Supervisor) -> None:
    supervisor._keep(shell(supervisor, "worker-0", "echo no tokenizer here; exit 3"))
    driver = shell(supervisor, "controller", "exec sleep 60")
    driver.start()
    supervisor._children.append(driver)
    with pytest.raises(
        SupervisorError, match=r"worker-0 dies repeatedly; the end of its log:\n(no tokenizer here\s*)+"
    ):
        async with asyncio.timeout(20):
            await supervisor._first_of(driver)
    assert len(list(read_jsonl(supervisor.run.events))) == QUICK_LIMIT


async def test_ctrl_c_once_asks_the_controller_twice_kills(supervisor: Supervisor, tmp_path: Path) -> None:
    asked, where = tmp_path / "asked", tmp_path / "pid"
    driver = shell(
        supervisor, "controller", f"trap 'echo 1 > {asked}' TERM; echo $$ > {where}; while :; do sleep 0.05; done"
    )
    driver.start()
    supervisor._driver = driver
    supervisor._children.append(driver)
    await until(lambda: number_in(where) > 0)
    supervisor._interrupted()
    await until(lambda: number_in(asked) == 1)
    assert driver.alive
    supervisor._interrupted()
    async with asyncio.timeout(20):
        assert await driver.wait() == -signal.SIGKILL
    assert gone(number_in(where))


class InterruptedStart(Supervisor):
    """Ctrl-C comes while Ray starts: the processes are ended under it."""

    async def _start(self, stack: AsyncExitStack) -> DriverConfig:
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: self._interrupts > 0)
        raise SupervisorError("Ray did not come up:")


async def test_ctrl_c_while_it_starts_is_no_failure(tmp_path: Path) -> None:
    supervisor = InterruptedStart(plan=tiny(), run=make_run(tmp_path), uid="u", say=lambda _: None)
    loop = asyncio.get_running_loop()
    try:
        assert await supervisor.supervise() == "Cancelled"
    finally:
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(sig)


def training() -> OrchestratorTraining:
    return tiny().training


def test_telemetry_becomes_variables_and_the_users_own_win(tmp_path: Path) -> None:
    spec = training().spec.telemetry.model_copy(update={"otlp_endpoint": "http://collector:4318"})
    found = telemetry_environment(spec, given={"OTEL_TRACES_EXPORTER": "console"}, file=tmp_path / "traces.jsonl")
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    assert found["TOOLORCHESTRA_TRACES_FILE"] == str(tmp_path / "traces.jsonl")
    assert found["OTEL_METRICS_EXPORTER"] == "otlp"
    assert "OTEL_TRACES_EXPORTER" not in found


async def test_a_restarted_nats_server_is_told(supervisor: Supervisor, tmp_path: Path) -> None:
    async with NatsServer(directory=tmp_path / "nats") as server:
        supervisor._watchers.append(asyncio.create_task(supervisor._tell_restarts(server)))
        await asyncio.sleep(0)
        os.kill(server.pid, signal.SIGKILL)
        await until(supervisor.run.events.exists)
        (event,) = read_jsonl(supervisor.run.events)
        assert (event["event"], event["process"]) == ("restart", "nats-server")


async def test_a_nats_server_that_keeps_dying_ends_the_run(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolorchestra.local.nats_server._MAX_RESTARTS", 0)
    driver = shell(supervisor, "controller", "exec sleep 60")
    driver.start()
    supervisor._children.append(driver)
    async with NatsServer(directory=tmp_path / "nats") as server:
        supervisor._watchers.append(asyncio.create_task(_watch(server)))
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(NatsServerError, match="keeps dying"):
            async with asyncio.timeout(20):
                await supervisor._first_of(driver)
