"""The sandbox: what a job cannot reach, how it can break, and that the next one does not."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.sandboxed import HOSTILE, LIMITS, SECRET, attempt
from toolorchestra.sandbox import bubblewrap
from toolorchestra.sandbox.program import Program
from toolorchestra.sandbox.protections import LANDLOCK, SECCOMP
from toolorchestra.sandbox.result import Broke, How, Returned
from toolorchestra.sandbox.sandbox import Sandbox, SandboxError

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_values_go_through_and_children_are_kept_warm(sandbox: Sandbox) -> None:
    for value in (None, 1.5, "\ud800", ["ä", {"b": []}], "x" * 9000):
        assert await attempt(sandbox, "echo", value) == Returned(value)
    assert len((await attempt(sandbox, "seen")).value) > 1  # type: ignore[union-attr]
    assert await attempt(sandbox, "seen", fresh=True) == Returned(["seen"])


async def test_no_secret_no_descriptor_and_nothing_of_the_worker_is_there(sandbox: Sandbox, tmp_path: Path) -> None:
    environment = await attempt(sandbox, "environment")
    assert isinstance(environment, Returned)
    assert SECRET not in str(environment.value)
    assert set(environment.value) <= {
        *("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS", "LANG", "LC_CTYPE"),
        *("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "PWD"),
    }
    assert await attempt(sandbox, "descriptors") == Returned([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("socket", [socket.AF_INET]),
        ("socket", [socket.AF_INET6]),
        ("socket", [socket.AF_UNIX]),
        ("socket", [16]),  # netlink
        ("socketpair", []),
        ("io_uring", []),
        ("fork", []),
        ("thread", []),
        ("program", []),
        ("subprocess", []),
        ("kill_all", []),
        ("signal", [os.getpid()]),
        ("signal", [1]),
        ("signal_by_file", [fcntl.F_SETOWN, os.getpid()]),
        ("signal_by_file", [fcntl.F_SETSIG, signal.SIGKILL]),
        ("signal_by_ioctl", [0x8901, os.getpid()]),  # FIOSETOWN
        ("signal_by_ioctl", [0x8902, os.getpid()]),  # SIOCSPGRP
        ("watch", ["/tmp"]),
        ("outlive", []),
        ("leave_the_session", []),
        ("limit_of_another", [os.getpid()]),
        ("trace", [os.getpid()]),
        ("namespace", []),
        ("read", [f"/proc/{os.getpid()}/environ"]),
        ("read", ["/proc/self/environ"]),
        ("read", ["/etc/passwd"]),
        ("read", [str(Path(__file__).parents[3] / "pyproject.toml")]),  # where this process was started
        ("list", ["/"]),
        ("write", ["/tmp/from-the-sandbox"]),
        ("write", [f"{Path(__file__).parent}/from-the-sandbox"]),
        ("remove", [__file__]),
        ("chmod", [__file__]),
    ],
)
async def test_what_a_job_cannot_do(sandbox: Sandbox, what: str, arguments: list[Any]) -> None:
    protections = await sandbox.start()
    assert not {SECCOMP, LANDLOCK} & set(protections.missing), "this machine's kernel has both"
    result = await attempt(sandbox, what, *arguments)
    assert isinstance(result, Broke), result
    assert result.how is How.RAISED, result
    assert await attempt(sandbox, "echo", 1) == Returned(1)


@pytest.mark.parametrize(
    ("what", "arguments", "how"),
    [
        ("spin", [], How.TIME),
        ("hold_the_gil", [], How.TIME),
        ("memory", [], How.MEMORY),
        ("grow", [], How.MEMORY),
        ("recurse", [], How.RAISED),
        ("segfault", [], How.CRASH),
        ("exit", [0], How.CRASH),
        ("exit", [9], How.CRASH),
        ("system_exit", [], How.RAISED),
        ("raise", ["x" * 100_000], How.RAISED),
        ("long_result", [], How.OUTPUT),
        ("no_json", [], How.RAISED),
        ("not_a_number", [], How.RAISED),
        ("write_reply", ["[[["], How.OUTPUT),
        ("write_reply", ["[" * 9000], How.OUTPUT),
        ("write_reply", ["true"], How.OUTPUT),
        ("write_reply", ['{"raised": 3}'], How.OUTPUT),
        ("write_reply", ['{"value": 1.0}'], How.OUTPUT),
        ("answer_the_next", [1.0], How.OUTPUT),
        ("claim_length", [4_000_000_000], How.OUTPUT),
        ("die_of_signal", [40], How.CRASH),  # a real-time signal, which has no name
    ],
)
async def test_how_a_job_breaks_and_that_the_next_one_does_not(
    sandbox: Sandbox, what: str, arguments: list[Any], how: How
) -> None:
    result = await attempt(sandbox, what, *arguments)
    assert isinstance(result, Broke), result
    assert result.how is how, result
    assert len(result.detail) < 500
    assert await attempt(sandbox, "echo", what) == Returned(what)


async def test_output_goes_nowhere(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    assert await attempt(sandbox, "print", 1_000_000) == Returned(None)
    assert capfd.readouterr() == ("", "")


async def test_a_long_job_is_not_sent() -> None:
    short = Sandbox(HOSTILE, limits=replace(LIMITS, input_bytes=100))
    result = await attempt(short, "echo", "x" * 100)
    assert isinstance(result, Broke)
    assert result.how is How.INPUT
    await short.close()


async def test_wall_time_is_bounded_too() -> None:
    made = Sandbox(HOSTILE, limits=replace(LIMITS, wall_seconds=0.2))
    await made.start()
    assert await attempt(made, "sleep") == Broke(How.TIME, "it took more than 0.2 seconds")
    await made.close()


async def test_what_cannot_start_says_why() -> None:
    for program, why in (
        (Program("support.hostile_programs:run", warm="support.hostile_programs:bad_warm"), "no such library"),
        (Program("no:no"), "no"),
    ):
        made = Sandbox(program, limits=LIMITS)
        with pytest.raises(SandboxError, match=why):
            await made.run(1)
        await made.close()


async def test_the_protections_name_what_is_missing(sandbox: Sandbox) -> None:
    protections = await sandbox.start()
    assert "empty environment" in protections.held
    assert not protections.weak
    assert str(protections).startswith("active: own process, ")


async def test_bubblewrap_is_tried_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await bubblewrap.command(sys.executable, environment={"PYTHONPATH": ""}) == ([], "not installed")
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    prefix, why_not = await bubblewrap.command(sys.executable, environment={"PYTHONPATH": ""})
    assert prefix == []
    assert "No permissions to create a new namespace" in why_not
    made = Sandbox(HOSTILE, limits=LIMITS)
    protections = await made.start()
    assert "No permissions" in protections.missing["bubblewrap"]
    assert await attempt(made, "echo", 1) == Returned(1)
    await made.close()
    # One that puts nothing up, but starts what it is given, as bubblewrap does.
    fake.write_text('#!/bin/sh\nwhile [ "$1" != --chdir ]; do shift; done\nshift 2\nexec "$@"\n')
    made = Sandbox(HOSTILE, limits=LIMITS)
    assert "bubblewrap" in (await made.start()).held
    assert await attempt(made, "echo", 1) == Returned(1)
    await made.close()
