"""What the command says and returns when a run has ended; the run itself is another test's business."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from rich.console import Console

from support.run_rig import make_run
from toolorchestra.api.load import load
from toolorchestra.cli import running
from toolorchestra.contract.progress import State
from toolorchestra.evaluation.acceptance import Criterion
from toolorchestra.local.lock import RunLocked
from toolorchestra.local.nats_server import NatsServerError
from toolorchestra.local.plan import LocalPlan
from toolorchestra.local.supervisor import SupervisorError
from toolorchestra.runs.run_dir import RunDir

TINY = Path(__file__).parents[2] / "support" / "tiny_run" / "training.yaml"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs", state="Running", message="")


@pytest.fixture
def ended(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run to an end of this kind; the exit status."""

    def end(how: State | Exception, message: str, **asked: bool) -> int:
        def supervise(run: RunDir, plan: LocalPlan, *, console: Console) -> State:
            if isinstance(how, Exception):
                raise how
            run.set_status({"state": how, "message": message})
            return how

        monkeypatch.setattr(running, "supervise", supervise)
        found = load(TINY)
        plan = LocalPlan(found.trainings[0], found.pools, Path("model"), {}, None, 0.0, ())
        with pytest.raises(typer.Exit) as caught:
            running.run_to_the_end(run, plan, console=Console(), **asked)
        return caught.value.exit_code

    return end


Ended = Callable[..., int]


@pytest.mark.parametrize(("state", "status"), [("Complete", 0), ("Cancelled", 130), ("Paused", 75)])
def test_a_state_is_an_exit_status(ended: Ended, capsys: pytest.CaptureFixture[str], state: State, status: int) -> None:
    assert ended(state, "why") == status
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{state}: why"
    assert said[-1] == "run: runs/demo-1"
    assert ("continue with: orchestra resume runs/demo-1" in said) == (state != "Complete")


@pytest.mark.parametrize("error", [SupervisorError("worker-0 dies repeatedly"), NatsServerError("keeps dying")])
def test_a_run_that_cannot_be_kept_alive_failed(
    ended: Ended, run: RunDir, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert ended(error, "") == 1
    said = capsys.readouterr().err
    assert f"error: {error}" in said
    assert "continue with: orchestra resume runs/demo-1" in said
    assert run.read_status()["state"] == "Failed"
    assert run.read_status()["message"] == str(error)


def test_a_lost_race_for_the_lock_changes_nothing(
    ended: Ended, run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(RunLocked("is running already, as process 7"), "") == 2
    assert "as process 7" in capsys.readouterr().err
    assert run.read_status()["state"] == "Running"


@pytest.mark.parametrize(
    ("how", "passed", "status"),
    [("Complete", True, 0), ("Complete", False, 1), ("Paused", True, 75), ("Paused", False, 75)],
)
def test_acceptance_is_an_exit_status(
    ended: Ended,
    run: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: State,
    passed: bool,
    status: int,
) -> None:
    """A state that is no success keeps its own; unasked, no criterion is looked at."""
    (run.root / "report.json").write_text("{}")
    found = [Criterion("cost", 0.1, 0.3, True), Criterion("accuracy", 0.5, 0.8, passed)]
    monkeypatch.setattr(running, "acceptance", lambda report: found)
    assert ended(how, "", check_acceptance=True) == status
    assert f"{'pass' if passed else 'MISS'}  accuracy: 0.5 (bar 0.8)" in capsys.readouterr().out
    assert ended("Complete", "") == 0
    assert "accuracy" not in capsys.readouterr().out


def test_a_run_without_evaluations_is_not_accepted_and_says_why(
    ended: Ended, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("Complete", "", check_acceptance=True) == 1
    assert "error: nothing to check: the run has not evaluated" in capsys.readouterr().err
