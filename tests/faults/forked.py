"""Processes forked from one that has imported everything, so that a life begins in milliseconds and not with torch.

They end with the process that asked for the first of them, and may be killed at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from toolorchestra.process import die_with_parent

PRELOAD = ["faults.process", "faults.controller", "faults.players", "faults.memory_stage", "faults.nats_stage"]


def context() -> ForkServerContext:
    """Of processes that have everything imported."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


def _begin(log: Path, main: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    die_with_parent()
    os.setsid()  # a Ctrl-C on the terminal goes to the harness, which ends everybody in order
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True)
    main(*arguments)
    sys.stdout.flush()
    os._exit(0)


class Forked:
    """One process that runs `main(*arguments)`, its output in `log`."""

    def __init__(self, main: Callable[..., None], *arguments: Any, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._process: BaseProcess = context().Process(target=_begin, args=(log, main, arguments))
        self._process.start()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    async def wait(self) -> int:
        """Its exit status; minus the signal that killed it."""
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        await asyncio.to_thread(self._process.join)
        return self._process.exitcode or 0

    def signal(self, which: signal.Signals) -> None:
        if self._process.pid is not None and self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, which)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def kill_family(self) -> None:
        """It and what it has started that is still in its process group."""
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
