"""A real vLLM under the real keeper of `engines/actor.py`, run here instead of in Ray; it can be killed as one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from faults.lost_node import cut, unless
from toolorchestra.engines.actor import EngineActor, EngineStatus
from toolorchestra.engines.arguments import EngineConfig
from toolorchestra.weights.snapshot import Snapshot

WAIT_SECONDS = 5.0
ROOM = 1024
"""Tokens of a prompt and its answer."""


class RealEngine:
    """As `ScriptedEngine`, with weights. `clock` counts what it cannot see: results of episodes."""

    def __init__(self, name: str, *, model: Path, log: Path, clock: Callable[[], int]) -> None:
        self._name, self._log, self._clock = name, log, clock
        self._config = EngineConfig(model_dir=str(model), max_model_len=ROOM, max_num_seqs=64)
        self._actor: EngineActor | None = None
        self._runner: web.AppRunner | None = None
        self._gone = False
        self._port = 0
        self._work: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Of its actor: vLLM's own address is in the status."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def generations(self) -> int:
        return self._clock()

    async def start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        app = web.Application(middlewares=[unless(lambda: self._gone)])
        app.add_routes([web.post("/actor/{method}", self._call)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        self._begin()

    def _begin(self) -> None:
        """A fresh actor, which starts its vLLM."""
        self._actor = EngineActor(name=self._name, config=self._config, log=self._log)

    async def stop(self) -> None:
        for task in self._work:
            task.cancel()
        if self._actor is not None:
            await asyncio.to_thread(self._actor.stop)
        if self._runner is not None:
            await self._runner.cleanup()

    def kill_process(self) -> None:
        """vLLM is killed; its actor starts it again with the last snapshot."""
        pid = self._actor.status().pid if self._actor is not None else 0
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_actor(self) -> None:
        """The actor is gone, its vLLM with it; a new one knows no snapshot."""
        task = asyncio.create_task(self._replace())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _replace(self) -> None:
        assert self._actor is not None
        assert self._runner is not None
        gone, self._gone = self._actor, True
        cut(self._runner)
        await asyncio.to_thread(gone.stop)
        self._begin()
        self._gone = False

    async def _call(self, request: web.Request) -> web.Response:
        actor, body = self._actor, await request.json()
        assert actor is not None
        status: Any
        match request.match_info["method"]:
            case "load":
                status = await asyncio.to_thread(actor.load, Snapshot(**body["snapshot"]))
            case "adopt":
                status = await asyncio.to_thread(actor.adopt, Snapshot(**body["snapshot"]))
            case "wait_status":
                seen, limit = EngineStatus(**body["seen"]), min(float(body["timeout"]), WAIT_SECONDS)
                status = await asyncio.to_thread(actor.wait_status, seen, limit)
            case _:
                status = actor.status()
        return web.json_response(asdict(status))
