"""One supervisor per run, whatever became of the last one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.run_rig import held, make_run
from toolorchestra.local.lock import RunLock, RunLocked


def test_the_holder_is_named_while_it_holds(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert RunLock(run).holder() is None
    with RunLock(run):
        assert RunLock(run).holder() == os.getpid()
    assert RunLock(run).holder() is None


def test_a_second_supervisor_is_refused_by_name(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with held(run) as process:
        for attempt in (RunLock(run).check, RunLock(run).__enter__):
            with pytest.raises(RunLocked, match=f"as process {process.pid}"):
                attempt()
        assert RunLock(run).holder() == process.pid, "who was refused left no trace"


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with held(run) as process:
        process.kill()
        process.wait()
        assert RunLock(run).holder() is None
        with RunLock(run):
            assert RunLock(run).holder() == os.getpid()


def test_looking_writes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = sorted(run.root.iterdir())
    assert RunLock(run).holder() is None
    RunLock(run).check()
    assert sorted(run.root.iterdir()) == before
