"""The driver as a RayJob's entrypoint: how it is told to end, what is said of its end, and that there is only one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.pods import pre_stop as before_end
from toolorchestra.pods.claim import Claim
from toolorchestra.pods.entrypoint import serve
from toolorchestra.pods.pre_stop import end_driver, outlive_head

WAITS = "import signal, sys; signal.signal(15, lambda *_: sys.exit(130)); print('up', flush=True); signal.pause()"


def config(root: Path) -> DriverConfig:
    return DriverConfig(
        uid="u", run=root, nats_url="nats://x", ray_address="auto", resources=(), model_dir=root, attempt=2
    )


def claim(root: Path, holder: str = "tiny-2-abcde") -> Claim:
    return Claim(root / "drivers", holder, beat_seconds=0.02, quiet_seconds=0.3, poll_seconds=0.02)


def program(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("", 0, ""),
        ("raise ValueError('boom')", 1, "ValueError: boom"),
        ("import os; os.kill(os.getpid(), 9)", 137, ""),
        ("import os; os.kill(os.getpid(), 15)", 143, ""),
    ],
)
async def test_its_exit_status_and_last_words_are_the_drivers(
    tmp_path: Path, code: str, status: int, words: str
) -> None:
    ended, said = await serve(config(tmp_path), argv=program(code), claim=claim(tmp_path))
    assert ended == status
    assert words in said
    assert (tmp_path / "logs" / "controller-attempt-2.log").exists()
    assert (tmp_path / "drivers" / "tiny-2-abcde").read_text() == "ended"


def says_something(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


async def until(path: Path) -> None:
    """Until that file says something."""
    async with asyncio.timeout(20):
        while not says_something(path):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_signal_reaches_the_driver(tmp_path: Path) -> None:
    serving = asyncio.create_task(serve(config(tmp_path), argv=program(WAITS), claim=claim(tmp_path)))
    await until(tmp_path / "logs" / "controller-attempt-2.log")
    os.kill(os.getpid(), signal.SIGTERM)
    code, _ = await asyncio.wait_for(serving, 20)
    assert code == 130


async def test_a_cluster_drives_once(tmp_path: Path) -> None:
    await serve(config(tmp_path), argv=program(""), claim=claim(tmp_path))
    code, said = await serve(config(tmp_path), argv=program("raise ValueError('a second one')"), claim=claim(tmp_path))
    assert (code, "was replaced" in said) == (130, True)


async def test_nobody_drives_beside_another(tmp_path: Path) -> None:
    first = claim(tmp_path, "old")
    assert first.take()
    beat = asyncio.create_task(first.beat())
    marker = tmp_path / "drove"
    argv = program(f"open({str(marker)!r}, 'w').write('x')")
    serving = asyncio.create_task(serve(config(tmp_path), argv=argv, claim=claim(tmp_path)))
    await asyncio.sleep(3 * first.quiet_seconds)  # nothing is to happen in it
    assert not serving.done()
    assert not marker.exists()
    beat.cancel()
    code, _ = await asyncio.wait_for(serving, 20)
    assert (code, marker.read_text()) == (0, "x")
    assert (tmp_path / "drivers" / "old").read_text() == "ended", "nobody has to wait for it again"


async def test_it_can_be_told_to_end_while_it_waits(tmp_path: Path) -> None:
    first = claim(tmp_path, "old")
    assert first.take()
    beat = asyncio.create_task(first.beat())
    serving = asyncio.create_task(serve(config(tmp_path), argv=program(""), claim=claim(tmp_path)))
    await until(tmp_path / "drivers" / "tiny-2-abcde")
    os.kill(os.getpid(), signal.SIGTERM)
    code, _ = await asyncio.wait_for(serving, 20)
    beat.cancel()
    assert code == 130


def test_the_head_waits_for_its_driver(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    end_driver(pid_file)
    code = WAITS.replace("sys.exit(130)", "(__import__('time').sleep(0.3), sys.exit(130))")
    with subprocess.Popen(program(code), stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        pid_file.write_text(str(driver.pid))
        # In a process of its own, as in the pod: who is the parent would take the exit status away from whom it is for.
        hook = subprocess.Popen([sys.executable, "-m", before_end.__name__, "head", "--pid-file", str(pid_file)])
        assert driver.wait(timeout=60) == 130
        assert hook.wait(timeout=60) == 0
    end_driver(pid_file)


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, int]]:
    """A node's connection, and the head's port."""
    with socket.create_server(("127.0.0.1", 0)) as head:
        node = socket.create_connection(head.getsockname())
        theirs, _ = head.accept()
        with node, theirs:
            yield theirs, head.getsockname()[1]


def test_a_node_stays_for_as_long_as_the_head() -> None:
    with connected() as (head, port):
        waiting = threading.Thread(target=outlive_head, args=(port,), kwargs={"poll": 0.02})
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        head.close()
        waiting.join(timeout=20)
        assert not waiting.is_alive()


def test_a_node_without_a_head_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody listens on, and that nobody is connected to, is no head: there is nothing to wait for."""
    waits: list[float] = []

    def wait_once(seconds: float) -> None:
        waits.append(seconds)
        raise TimeoutError

    with socket.create_server(("127.0.0.1", 0)) as nobody, contextlib.suppress(TimeoutError):
        monkeypatch.setattr(before_end.time, "sleep", wait_once)
        outlive_head(nobody.getsockname()[1])
    assert waits == []
