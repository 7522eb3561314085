"""A real training (vLLM, Ray, NATS, workers) that loses each kind of its processes, and then all of them at once. (With
scripted engines both are in every run of the default tests: test_faults_small.)

What must hold at the end: all steps done, and every accepted episode trained exactly once, excluded with a reason, or
set aside because its weights did not survive: the journal's own counts.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.real_run import TINY_RUN, RealRun
from support.tiny_model import tiny_model
from toolorchestra.ledger.history import account, read_history
from toolorchestra.ledger.journal import read_frames
from toolorchestra.runs.run_dir import RunDir, read_jsonl

pytestmark = [pytest.mark.long, pytest.mark.real, pytest.mark.timeout(1200)]

PATIENCE = 900.0
"""Seconds until something that must happen has happened; a busy machine starts vLLM in more than a minute."""


class Run(RealRun):
    """A training, its progress and its processes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, patience=PATIENCE)
        self.steps = 0

    def begins(self, *, steps: int, checkpoint_every: int) -> None:
        """`orchestra train`, of so many steps."""
        self.steps = steps
        text = (TINY_RUN / "training.yaml").read_text()
        for old, new in (("steps: 10", f"steps: {steps}"), ("everySteps: 4", f"everySteps: {checkpoint_every}")):
            assert text.count(old) == 1
            text = text.replace(old, new)
        (self.folder / "training.yaml").write_text(text)
        self.start(
            *("train", "-f", str(self.folder / "training.yaml"), "--simulator", str(TINY_RUN / "skills.yaml")),
            *("--volume", f"models={self.folder / 'models'}", "--runs", str(self.folder / "runs")),
        )

    def step(self) -> int:
        rows = [row for row in read_jsonl(self.dir.metrics) if "accuracy" in row]
        return int(rows[-1]["step"]) if rows else 0

    def events(self, kind: str) -> int:
        return sum(event["event"] == kind for event in read_jsonl(self.dir.events))

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, what: str) -> psutil.Process:
        """The one (or first) process of the run whose title or command line holds `what`."""
        for process in self.descendants():
            try:
                if what in " ".join(process.cmdline()):
                    return process
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        raise AssertionError(f"no process {what!r} among {len(self.descendants())}")

    def until_step(self, step: int) -> None:
        self.until(f"step {step}", lambda: any((self.folder / "runs").iterdir()) and self.step() >= step)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    tiny_model(tmp_path / "models" / "tiny")
    (tmp_path / "runs").mkdir()
    run = Run(tmp_path)
    yield run
    if run.started is not None and run.started.poll() is None:
        os.killpg(run.process.pid, signal.SIGKILL)


def assert_exact(run: RunDir, *, steps: int) -> None:
    """The ledger, from the journal alone."""
    history = read_history(read_frames(run.journal))
    count = account(history)
    assert count.exact
    assert count.open == 0, "every accepted episode came to an end"
    assert sorted(history.steps) == list(range(1, steps + 1)), "every step happened once in the surviving history"
    for issue in history.trained():
        assert history.survives(history.accepted[issue].newest)


def assert_agreement(run: RunDir) -> None:
    """Trainer and engine compute one policy in float32; the first step's tokens are all of its own weights."""
    rows = [row for row in read_jsonl(run.metrics) if "loss" in row and "accuracy" in row]
    assert rows[0]["mismatch_tokens"] == rows[0]["trained_tokens"] > 0
    assert all(0 <= row["mismatch_k3"] < 1e-8 for row in rows if "mismatch_k3" in row)


def dies_whole_and_is_resumed(run: Run) -> None:
    """Nobody outlives the supervisor; `orchestra resume` takes the run to its end, with exact ledger."""
    family = run.descendants()
    run.process.kill()
    run.process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, f"processes outlived their supervisor: {[p.cmdline() for p in alive]}"

    run.start("resume", str(run.dir.root))
    run.process.wait(PATIENCE)
    status = json.loads(run.dir.status.read_text())
    assert status["state"] == "Complete", run.log.read_text()[-3000:]
    assert_exact(run.dir, steps=run.steps)
    assert_agreement(run.dir)
    report = json.loads((run.dir.root / "report.json").read_text())
    assert {row["system"] for row in report["evaluations"]} >= {"policy", "initialPolicy", "bestExpert", "always:small"}
    best = json.loads((run.dir.checkpoints / "best.json").read_text())
    assert best["score"]["reward"] >= max(r["reward"] for r in report["evaluations"] if r["system"] == "initialPolicy")
    for model in ("best", "last"):
        assert (run.dir.export / model / "model.safetensors").exists()


def test_every_process_dies_once_and_then_all_of_them(run: Run) -> None:
    run.begins(steps=24, checkpoint_every=4)
    run.until_step(2)
    for name in ("cli.main worker", "nats-server", "vllm.entrypoints", "ray::TrainerActor", "controller.driver"):
        before = run.step()
        run.find(name).kill()
        run.until_step(before + 1 if name in ("cli.main worker", "nats-server", "vllm.entrypoints") else 1)
        lives = {"ray::TrainerActor": 2, "controller.driver": 3}.get(name)
        if lives is not None:
            run.until(f"incarnation {lives}", lambda lives=lives: run.events("incarnation") >= lives)  # type: ignore[misc]
            run.until("steps of the new incarnation", lambda: run.step() < run.steps)
    dies_whole_and_is_resumed(run)
