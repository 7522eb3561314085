"""`orchestra status`, `logs` and `cancel` on a run that goes on, ended, or died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.run_rig import held, make_run, orchestra
from toolorchestra.local.lock import RunLock
from toolorchestra.runs.run_dir import RunDir

RUNNING = {
    "state": "Running",
    "message": "",
    "incarnation": 1,
    "step": 37,
    "steps": 80,
    "progressPercentage": 46,
    "policyVersion": "1-37",
    "metrics": {"reward_mean": 0.5, "accuracy": 0.75},
    "spentUSD": "0.0125",
    "engines": {"engine-0": {"state": "ready", "version": "1-37", "restarts": 2, "serves": "vLLM 0.32.0"}},
}


# ── status ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_of_a_run_that_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, **RUNNING)
    with held(run) as process:
        text = orchestra("status", run.root).output
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert lines["demo-1"] == "Running"
    assert lines["step"] == "37 of 80 (46 %)"
    assert lines["incarnation"] == "1"
    assert lines["spent"] == "$0.0125"
    assert lines["accuracy"] == "0.75"
    assert lines["engine-0"] == "ready version 1-37, restarted 2 times vLLM 0.32.0"
    assert lines["supervisor"] == f"process {process.pid}"
    assert "orchestra cancel" in lines["next"]


@pytest.mark.parametrize(
    ("reserved", "told"), [("0", "$0.0125"), ("1.50", "$0.0125, and at most $1.50 that is reserved and not billed yet")]
)
def test_what_may_still_be_billed_is_told(tmp_path: Path, reserved: str, told: str) -> None:
    run = make_run(tmp_path, **RUNNING, reservedUSD=reserved)
    lines = dict(line.split(maxsplit=1) for line in orchestra("status", run.root).output.splitlines())
    assert lines["spent"] == told


def test_a_run_whose_process_is_gone_died(tmp_path: Path) -> None:
    run = make_run(tmp_path, **RUNNING)
    with held(run) as process:
        process.kill()
        process.wait()
        text = orchestra("status", run.root).output
        assert "died" in text.splitlines()[0]
        assert f"orchestra resume {run.root}" in text
        assert "Running (died)" in orchestra("runs", "list", "--runs", run.root.parent).output
        row = json.loads(orchestra("status", run.root, "--json").output)
    assert row["died"] is True
    assert row["supervisor"] is None
    assert row["step"] == 37


@pytest.mark.parametrize(
    ("state", "following"),
    [
        ("Complete", "orchestra report"),
        ("Paused", "do what the message says"),
        ("Cancelled", "orchestra resume"),
        ("Failed", "orchestra resume"),
    ],
)
def test_what_to_do_with_a_run_that_ended(tmp_path: Path, state: str, following: str) -> None:
    run = make_run(tmp_path, state=state, message="why it ended", step=3, steps=10)
    text = orchestra("status", run.root).output
    assert text.splitlines()[0].split() == ["demo-1", state]
    assert "why it ended" in text
    assert following in text.splitlines()[-1]


@pytest.mark.parametrize("command", [["status"], ["runs", "show"]])
def test_what_others_wrote_does_nothing_to_the_terminal(tmp_path: Path, command: list[str]) -> None:
    """A message may repeat a task's id, and a task file holds what it likes."""
    run = make_run(tmp_path, **RUNNING | {"message": "the last one: task \x1b]0;pwned\x07\u202e: no grader"})
    run.event("unscored", "task \x9b2J: no grader")
    text = orchestra(*command, run.root).output
    assert r"task \x1b]0;pwned\x07\u202e: no grader" in text
    assert not any(c in text for c in "\x1b\x07\x9b\u202e")


def test_a_run_may_be_named_without_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs", **RUNNING)
    monkeypatch.chdir(tmp_path)
    assert "37 of 80" in orchestra("status", "demo-1").output


@pytest.mark.parametrize("command", ["status", "logs", "cancel", "resume"])
def test_what_is_no_run_is_said(tmp_path: Path, command: str) -> None:
    assert "no such folder" in orchestra(command, tmp_path / "absent", status=2).stderr
    assert "not a run's folder" in orchestra(command, tmp_path, status=2).stderr


# ── logs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_log(run: RunDir, name: str, text: str) -> Path:
    run.logs.mkdir(exist_ok=True)
    path = run.logs / f"{name}.log"
    path.write_text(text)
    return path


def test_logs_lists_the_processes(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with_log(run, "controller", "one\n")
    with_log(run, "worker-0", "two\n")
    (run.root / "nats").mkdir()
    (run.root / "nats" / "nats-server.log").write_text("three\n")
    text = orchestra("logs", run.root).output
    assert [line.split()[0] for line in text.splitlines()] == ["controller", "worker-0", "nats-server"]


def test_logs_prints_the_end_of_one(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with_log(run, "controller", "".join(f"line {i}\n" for i in range(100)))
    with_log(run, "worker-0", "")
    text = orchestra("logs", run.root, "controller", "-n", "2").output
    assert text == "line 98\nline 99\n"


def test_the_only_log_needs_no_name(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with_log(run, "controller", "alone\n")
    assert orchestra("logs", run.root).output == "alone\n"


def test_an_unknown_process_is_answered_with_those_there_are(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with_log(run, "controller", "")
    with_log(run, "worker-0", "")
    assert "controller, worker-0" in orchestra("logs", run.root, "worker", status=2).stderr
    assert "no process" in orchestra("logs", make_run(tmp_path, name="new").root, status=2).stderr


def test_following_ends_with_the_run_and_reads_a_log_begun_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = with_log(run, "engine-0", "the first life of this engine\n")
    argv = [sys.executable, "-m", "toolorchestra.cli.main", "logs", str(run.root), "engine-0", "-f"]
    with held(run) as process, subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "the first life of this engine\n"
        path.write_text("second life\n")
        assert following.stdout.readline() == "second life\n"
        process.terminate()
        assert following.stdout.read() == ""
        assert following.wait(10) == 0


# ── cancel ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cancel_waits_until_the_run_has_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, **RUNNING)
    with held(run) as process:
        text = orchestra("cancel", run.root).output
        assert process.wait(5) == 0
    assert f"told process {process.pid}" in text
    assert text.splitlines()[-1].startswith("Cancelled")
    assert f"orchestra resume {run.root}" in text


def test_cancel_may_leave_without_waiting(tmp_path: Path) -> None:
    run = make_run(tmp_path, **RUNNING)
    with held(run) as process:
        assert len(orchestra("cancel", run.root, "--no-wait").output.splitlines()) == 1
        assert process.wait(5) == 0


def test_cancel_of_what_is_not_running_signals_nobody(tmp_path: Path) -> None:
    run = make_run(tmp_path, **RUNNING)
    (run.root / "supervisor.lock").write_text(str(os.getpid()))  # left by a killed holder; the number lives on
    text = orchestra("cancel", run.root).output
    assert "is not running" in text
    assert "orchestra resume" in text


def test_resume_of_a_running_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, **RUNNING)
    with held(run) as process:
        assert f"is running already, as process {process.pid}" in orchestra("resume", run.root, status=2).stderr
        assert RunLock(run).holder() == process.pid
