"""Ctrl-C on the real command: once ends a run in order, twice ends it at once, and neither leaves a process behind.

The run is stopped while engines and trainers still start, so nothing here waits for vLLM.
"""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.real_run import TINY_RUN, RealRun
from support.tiny_model import tiny_model
from toolorchestra.runs.run_dir import read_jsonl

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

START_SECONDS = 240.0
AT_ONCE_SECONDS = 10.0
"""What a person takes for at once; killing takes milliseconds, Ray's own clean-up some seconds."""


class Run(RealRun):
    """`orchestra train`. Every process that comes of it carries a mark in its environment."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"mark-{uuid.uuid4()}"
        super().__init__(folder, patience=START_SECONDS, environment={"MARK": self.mark})
        files = ("-f", str(TINY_RUN / "training.yaml"), "--simulator", str(TINY_RUN / "skills.yaml"))
        places = ("--volume", f"models={folder / 'models'}", "--runs", str(folder / "runs"))
        self.start("train", *files, *places)

    def family(self) -> list[psutil.Process]:
        """Every living process that carries the mark, whoever its parent is by now."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def running(self) -> str:
        return "\n".join(" ".join(process.cmdline()) for process in self.family())

    def ctrl_c(self) -> None:
        """Press it; returns when the process has taken the signal, so that two presses are two signals."""
        self.process.send_signal(signal.SIGINT)
        self.until("taking the signal", lambda: not self._pending(signal.SIGINT))

    def _pending(self, number: signal.Signals) -> bool:
        """Whether the process has yet to take a signal (proc_pid_status(5), ShdPnd: one bit a signal)."""
        if self.process.poll() is not None:
            return False
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        pending = next(line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd:"))
        return bool(int(pending, 16) >> (number - 1) & 1)

    def assert_over(self, *, within: float) -> None:
        """It ends in time, with the status and the words of a cancelled run, and nobody outlives it."""
        family = self.family()
        began = time.monotonic()
        status = self.process.wait(START_SECONDS)
        assert time.monotonic() - began < within, f"it took {time.monotonic() - began:.1f} s"
        psutil.wait_procs(family, timeout=2.0)
        assert not self.family(), f"these outlived the run:\n{self.running()}"
        assert status == 130, self.words()[-3000:]
        assert f"continue with: orchestra resume {self.dir.root}" in self.words()
        assert json.loads(self.dir.status.read_text())["state"] == "Cancelled"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    tiny_model(tmp_path / "models" / "tiny")
    (tmp_path / "runs").mkdir()
    run = Run(tmp_path)
    yield run
    for process in run.family():
        process.kill()
    run.process.wait()


def has_a_controller(run: Run) -> bool:
    """The controller is past its imports: it would answer a signal by ending in order."""
    folders = list((run.folder / "runs").iterdir())
    return bool(folders) and "incarnation" in {event["event"] for event in read_jsonl(run.dir.events)}


def test_twice_ends_everything_at_once(run: Run) -> None:
    run.until("the controller", lambda: has_a_controller(run))
    running = run.running()
    assert all(
        name in running for name in ("nats-server", "raylet", "cli.main worker", "simulate", "controller.driver")
    )
    run.ctrl_c()
    run.until("the first one's answer", lambda: "Ctrl-C again stops at once" in run.words())
    assert run.process.poll() is None
    run.ctrl_c()
    run.assert_over(within=AT_ONCE_SECONDS)


@pytest.mark.parametrize("presses", [1, 3])
def test_before_there_is_a_controller_it_just_ends(run: Run, presses: int) -> None:
    run.until("Ray", lambda: "raylet" in run.running())
    for _ in range(presses):
        run.ctrl_c()
    run.assert_over(within=AT_ONCE_SECONDS)
