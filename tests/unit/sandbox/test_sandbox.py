"""The sandbox: what a job cannot reach, how it can break, and that nothing but its child is lost."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from toolorchestra.sandbox import bubblewrap
from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.program import Program
from toolorchestra.sandbox.protections import LANDLOCK, SECCOMP
from toolorchestra.sandbox.result import Broke, How, Result, Returned
from toolorchestra.sandbox.sandbox import Sandbox, SandboxError

HOSTILE = Program(run="support.hostile_programs:run")
LIMITS = Limits(cpu_seconds=1, wall_seconds=60.0, memory_bytes=64 << 20, output_bytes=10_000)
SECRET = "sk-do-not-tell-anyone"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    os.environ["EXPERT_API_KEY"] = SECRET
    made = Sandbox(HOSTILE, limits=LIMITS)
    yield made
    await made.close()
    del os.environ["EXPERT_API_KEY"]


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def attempt(sandbox: Sandbox, what: str, *arguments: Any, fresh: bool = False) -> Result:
    return await sandbox.run({"try": what, "with": arguments}, fresh=fresh)


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


@pytest.mark.parametrize(
    ("what", "arguments", "how"),
    [
        ("spin", [], How.TIME),
        ("memory", [], How.MEMORY),
        ("segfault", [], How.CRASH),
        ("write_reply", ['{"value": 1.0}'], How.OUTPUT),
        ("answer_the_next", [1.0], How.OUTPUT),
        ("raise", ["no"], How.RAISED),
    ],
)
async def test_only_the_job_that_broke_a_child_is_to_blame(what: str, arguments: list[Any], how: How) -> None:
    """Before and behind it are others, on their way to the same child."""
    made = Sandbox(HOSTILE, limits=LIMITS, children=1)
    assert await attempt(made, "echo", 0) == Returned(0)
    asked = [attempt(made, "echo", 1), attempt(made, what, *arguments), attempt(made, "echo", 2), attempt(made, "seen")]
    before, broke, *behind = await asyncio.gather(*asked)
    assert before == Returned(1)
    assert isinstance(broke, Broke)
    assert broke.how is how
    seen = ["echo", "echo", what, "echo", "seen"] if how is How.RAISED else ["echo", "seen"]
    assert behind == [Returned(2), Returned(seen)], "by a child that has not seen the one that broke"
    await made.close()


async def test_a_child_that_works_is_given_more_unless_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, children in ((float("inf"), 1), (-1.0, 2)):
        monkeypatch.setattr("toolorchestra.sandbox.sandbox._SLOW_SECONDS", seconds)
        made = Sandbox(HOSTILE, limits=LIMITS)
        await asyncio.gather(*(attempt(made, "echo", i) for i in range(8)))
        assert len(made.pids()) == 1 + children
        await made.close()


async def test_more_jobs_than_there_is_room_for_all_come_to_their_result() -> None:
    made = Sandbox(HOSTILE, limits=replace(LIMITS, jobs_per_child=7))
    jobs = [attempt(made, "segfault" if i % 10 == 9 else "echo", i, fresh=i % 20 == 0) for i in range(60)]
    for i, result in enumerate(await asyncio.gather(*jobs)):
        assert isinstance(result, Broke) if i % 10 == 9 else result == Returned(i)
    assert len(made.pids()) <= 3
    assert made.busy_pids() == ()
    await made.close()


async def test_a_child_that_dies_without_a_job_is_nobodys_fault() -> None:
    made = Sandbox(HOSTILE, limits=LIMITS)
    assert await attempt(made, "echo", 1) == Returned(1)
    _, child = made.pids()
    os.kill(child, signal.SIGKILL)
    while child in made.pids():  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0)
    assert await attempt(made, "echo", 2) == Returned(2)
    assert len(made.pids()) == 2
    assert not _exists(child)
    await made.close()


async def test_output_goes_nowhere(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    assert await attempt(sandbox, "print", 1_000_000) == Returned(None)
    assert capfd.readouterr() == ("", "")


async def test_a_long_job_is_not_sent() -> None:
    short = Sandbox(HOSTILE, limits=replace(LIMITS, input_bytes=100))
    result = await attempt(short, "echo", "x" * 100)
    assert isinstance(result, Broke)
    assert result.how is How.INPUT
    await short.close()


async def test_a_child_that_died_while_it_waited_is_no_fault_of_the_next_job() -> None:
    made = Sandbox(HOSTILE, limits=LIMITS)
    assert await attempt(made, "echo", 1) == Returned(1)
    _, child = made.pids()
    os.kill(child, signal.SIGKILL)  # as the kernel does where memory runs out
    await _gone(child)
    assert await attempt(made, "echo", 2) == Returned(2)
    await made.close()


async def test_a_child_that_talks_unasked_is_not_listened_to() -> None:
    made = Sandbox(HOSTILE, limits=LIMITS)
    await attempt(made, "talk_on", 4096)
    for number in range(3):
        assert await attempt(made, "echo", number) == Returned(number)
    assert len(made.pids()) == 2  # the talker is gone
    await made.close()


async def test_a_job_is_not_blamed_for_what_an_earlier_one_left_behind() -> None:
    made = Sandbox(HOSTILE, limits=LIMITS)
    assert await attempt(made, "leave_a_timer", 0.1) == Returned(0.1)
    assert await attempt(made, "outlast_the_timer") == Returned(0.0)
    await made.close()


async def test_answers_stay_in_order_however_often_a_job_is_cancelled() -> None:
    made = Sandbox(HOSTILE, limits=LIMITS)
    assert await attempt(made, "echo", 1) == Returned(1)
    zygote = made.pids()[0]
    os.kill(zygote, signal.SIGSTOP)  # a machine that is busy: it answers late
    job = asyncio.create_task(attempt(made, "echo", 2, fresh=True))
    for _ in range(3):
        await asyncio.sleep(0)
        job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    after = asyncio.create_task(attempt(made, "exit", 7, fresh=True))
    await asyncio.sleep(0)
    os.kill(zygote, signal.SIGCONT)
    assert await after == Broke(How.CRASH, "its process ended with status 7")
    await made.close()


async def test_wall_time_is_bounded_too() -> None:
    made = Sandbox(HOSTILE, limits=replace(LIMITS, wall_seconds=0.2))
    await made.start()
    assert await attempt(made, "sleep") == Broke(How.TIME, "it took more than 0.2 seconds")
    await made.close()


async def test_a_cancelled_job_takes_its_child_along(sandbox: Sandbox) -> None:
    hanging = asyncio.create_task(attempt(sandbox, "sleep"))
    while not sandbox.busy_pids():  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0)
    (pid,) = sandbox.busy_pids()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert not _exists(pid)
    assert await attempt(sandbox, "echo", 1) == Returned(1)


async def test_jobs_behind_a_cancelled_one_are_done_by_another_child() -> None:
    made = Sandbox(HOSTILE, limits=LIMITS, children=1)
    assert await attempt(made, "echo", 0) == Returned(0)
    hanging, behind = (asyncio.create_task(attempt(made, *what)) for what in (("sleep",), ("echo", 1)))
    while not made.busy_pids():  # noqa: ASYNC110 (both are sent in the same turn of the loop)
        await asyncio.sleep(0)
    hanging.cancel()
    assert await behind == Returned(1)
    with pytest.raises(asyncio.CancelledError):
        await hanging
    await made.close()


async def test_a_child_is_replaced_after_its_jobs() -> None:
    made = Sandbox(HOSTILE, limits=replace(LIMITS, jobs_per_child=2), children=1)
    counts = [len((await attempt(made, "seen")).value) for _ in range(5)]  # type: ignore[union-attr]
    assert counts == [1, 2, 1, 2, 1]
    await made.close()


async def test_a_dead_zygote_is_started_again() -> None:
    made = Sandbox(HOSTILE, limits=LIMITS)
    assert await attempt(made, "echo", 1) == Returned(1)
    first, *children = made.pids()
    os.kill(first, signal.SIGKILL)
    await _gone(first, *children)
    assert await attempt(made, "echo", 2) == Returned(2)
    assert made.pids()[0] != first
    await made.close()
    with pytest.raises(SandboxError, match="closed"):
        await attempt(made, "echo", 3)


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


_KILLED = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from toolorchestra.sandbox.program import Program
from toolorchestra.sandbox.sandbox import Sandbox

async def main():
    sandbox = Sandbox(Program("support.hostile_programs:run"))
    await sandbox.run({"try": "echo", "with": [1]})
    job = asyncio.create_task(sandbox.run({"try": "hold_the_gil"}))
    while not sandbox.busy_pids():
        await asyncio.sleep(0)
    print(*sandbox.pids(), *sandbox.busy_pids(), flush=True)
    await job

asyncio.run(main())
"""


async def test_a_killed_worker_leaves_nothing_behind(tmp_path: Path) -> None:
    """Though its child holds the GIL and never looks at anything."""
    worker = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _KILLED, str(Path(__file__).parents[2])], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    pids = [int(pid) for pid in worker.stdout.readline().split()]
    assert len(pids) == 2
    worker.kill()
    worker.wait()
    worker.stdout.close()
    await _gone(*pids)


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


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


async def _gone(*pids: int) -> None:
    """Wait until none of the processes lives (one that nobody has reaped yet does not)."""
    async with asyncio.timeout(20):
        for pid in pids:
            while _exists(pid) and not _is_zombie(pid):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
