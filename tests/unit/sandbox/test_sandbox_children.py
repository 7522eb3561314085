"""The sandbox's processes: how many there are, that a broken one costs no other job, and that none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.sandboxed import HOSTILE, LIMITS, attempt, exists, gone
from toolorchestra.sandbox.result import Broke, How, Returned
from toolorchestra.sandbox.sandbox import Sandbox, SandboxError

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
    assert not exists(child)
    await made.close()


async def test_a_child_that_died_while_it_waited_is_no_fault_of_the_next_job() -> None:
    made = Sandbox(HOSTILE, limits=LIMITS)
    assert await attempt(made, "echo", 1) == Returned(1)
    _, child = made.pids()
    os.kill(child, signal.SIGKILL)  # as the kernel does where memory runs out
    await gone(child)
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


async def test_a_cancelled_job_takes_its_child_along(sandbox: Sandbox) -> None:
    hanging = asyncio.create_task(attempt(sandbox, "sleep"))
    while not sandbox.busy_pids():  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0)
    (pid,) = sandbox.busy_pids()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert not exists(pid)
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
    await gone(first, *children)
    assert await attempt(made, "echo", 2) == Returned(2)
    assert made.pids()[0] != first
    await made.close()
    with pytest.raises(SandboxError, match="closed"):
        await attempt(made, "echo", 3)


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
    await gone(*pids)
