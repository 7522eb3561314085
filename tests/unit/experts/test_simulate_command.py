"""`orchestra simulate` as a process."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest
from typer.testing import CliRunner

from toolorchestra.cli.main import app

TABLE = """
apiVersion: toolorchestra.dev/v1alpha1
kind: SkillTable
spec:
  experts:
  - name: oak
    default: {accuracy: "0.5"}
    latencyMilliseconds: {p50: 1000, p99: 4000}
"""


def orchestra(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from toolorchestra.cli.main import main; main()", "simulate", *arguments]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "skills.yaml"
    path.write_text(TABLE, encoding="utf-8")
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_until_signalled(table: Path, number: signal.Signals) -> None:
    command = orchestra("-f", str(table), "--port", "0", "--time-scale", "0")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert "simulated experts: oak" in line
        async with aiohttp.ClientSession() as session, session.get(f"{line.split()[1]}/models") as reply:
            assert (await reply.json())["data"][0]["id"] == "oak"
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), timeout=10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def fails(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["simulate", *arguments])
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit), "a mistake is no traceback"
    return done.stderr


def test_mistakes_are_told_without_a_traceback(table: Path, tmp_path: Path) -> None:
    assert "no such file" in fails("-f", str(tmp_path / "none.yaml"))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TABLE.replace('"0.5"', '"half"'), encoding="utf-8")
    assert "spec.experts[0].default.accuracy" in fails("-f", str(wrong))
    two = tmp_path / "two.yaml"
    two.write_text(f"{TABLE}\n---\n{TABLE}", encoding="utf-8")
    assert "exactly one" in fails("-f", str(two))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"error: port {port} on 127.0.0.1 is taken" in fails("-f", str(table), "--port", port)
