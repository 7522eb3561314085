"""Jobs of a sandbox that try what they must not, and whether a process is gone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.program import Program
from toolorchestra.sandbox.result import Result
from toolorchestra.sandbox.sandbox import Sandbox

HOSTILE = Program(run="support.hostile_programs:run")
LIMITS = Limits(cpu_seconds=1, wall_seconds=60.0, memory_bytes=64 << 20, output_bytes=10_000)
SECRET = "sk-do-not-tell-anyone"
"""In the environment of the process whose sandbox it is."""


async def attempt(sandbox: Sandbox, what: str, *arguments: Any, fresh: bool = False) -> Result:
    return await sandbox.run({"try": what, "with": arguments}, fresh=fresh)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


async def gone(*pids: int) -> None:
    """Wait until none of the processes lives (one that nobody has reaped yet does not)."""
    async with asyncio.timeout(20):
        for pid in pids:
            while exists(pid) and not _is_zombie(pid):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
