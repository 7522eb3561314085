"""A fast fake of one vLLM server and of the actor that keeps it: the generate route, and control routes beside it.

It lives in the harness, so it outlives controllers as a detached actor does. It can lose its process (the actor loads
the last snapshot again) or the actor itself (a new one knows nothing).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web

from faults.lost_node import cut, unless
from toolorchestra.engines.actor import EngineStatus
from toolorchestra.policy.fake import byte_renderer
from toolorchestra.policy.parser import ToolCall, format_calls
from toolorchestra.weights.snapshot import Snapshot

_ENUM = re.compile(r'"enum": \[([^\]]*)\]')
_TASK = re.compile(r"Task (\d+): (?:(\w+) )?add (\d+) and (\d+)")
_BOXED = re.compile(r"\\boxed\{(\d+)\}")
# Durations of the world that is played, drawn or fixed: nobody waits in them for something to happen.
RESTART_SECONDS = 0.4
LOAD_SECONDS = (0.001, 0.03)
GENERATION_SECONDS = 0.006
"""On average."""
WAIT_SECONDS = 5.0
"""Longest that the actor keeps a question for news open."""


class ScriptedEngine:
    """One engine. `generations` is the harness's clock."""

    def __init__(self, name: str, *, rng: random.Random) -> None:
        self._rng = rng
        self._renderer = byte_renderer()
        self.status = EngineStatus(name)
        self._snapshot: Snapshot | None = None
        self._loading = asyncio.Lock()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._changed = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._life = 0
        self._gone = False
        self.generations = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=64 << 20, middlewares=[unless(lambda: self._gone)])
        app.add_routes(
            [
                web.post("/inference/v1/generate", self._generate),
                web.post("/actor/{method}", self._actor),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        self._set(state="ready", url=self.url, serves="scripted")

    async def stop(self) -> None:
        for task in list(self._work):
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    # ── what befalls it ────────────────────────────────────────────────────────────────────────────────────────────

    def kill_process(self) -> None:
        """The server is gone; its actor starts it again with the last snapshot. On a node that is gone nothing runs."""
        if self._gone:
            return
        self._life += 1
        cut(self._runner)
        self._set(state="restarting", version=None, restarts=self.status.restarts + 1, last_error="vLLM ended: killed")
        self._spawn(self._restart(life=self._life))

    def kill_actor(self) -> None:
        """The actor's node is gone, the server with it: nobody answers, and who comes back knows no snapshot."""
        self._life += 1
        self._snapshot = None
        self._gone, self.status = True, EngineStatus(self.status.name)
        cut(self._runner)
        self._spawn(self._come_back(life=self._life))

    async def _restart(self, *, life: int) -> None:
        await asyncio.sleep(RESTART_SECONDS)
        if life != self._life:
            return
        async with self._loading:
            self._set(state="ready", version=self._snapshot.version if self._snapshot else None)

    async def _come_back(self, *, life: int) -> None:
        await asyncio.sleep(RESTART_SECONDS)
        if life != self._life:
            return
        self._gone = False
        self._set(state="ready", url=self.url, version=None, serves="scripted")

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _set(self, **fields: Any) -> None:
        self.status = replace(self.status, **fields)
        self._changed.set()
        self._changed = asyncio.Event()

    # ── the actor's methods ────────────────────────────────────────────────────────────────────────────────────────

    async def _actor(self, request: web.Request) -> web.Response:
        body = await request.json()
        match request.match_info["method"]:
            case "load" | "adopt":
                await self._load(Snapshot(**body["snapshot"]))
            case "wait_status":
                await self._wait_status(EngineStatus(**body["seen"]), float(body["timeout"]))
            case _:
                pass
        return web.json_response(asdict(self.status))

    async def _load(self, snapshot: Snapshot) -> None:
        life = self._life
        async with self._loading:
            if life != self._life:
                return
            self._snapshot = snapshot
            self._set(wanted=snapshot.version)
            if self.status.state != "ready":
                return
            self._resumed.clear()
            await asyncio.sleep(self._rng.uniform(*LOAD_SECONDS))
            self._resumed.set()
            if life == self._life:
                self._set(version=snapshot.version)

    async def _wait_status(self, seen: EngineStatus, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, WAIT_SECONDS)):
                while self.status == seen:
                    await self._changed.wait()

    # ── the policy ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        life = self._life
        began = self.status.version
        await asyncio.sleep(self._rng.expovariate(1 / GENERATION_SECONDS))
        await self._resumed.wait()
        if self.status.state != "ready" or life != self._life:
            return web.json_response({"error": "restarting"}, status=503)
        self.generations += 1
        text = self._reply(self._renderer.decode(body["token_ids"]))
        if text is None:
            return web.json_response({"error": "cursed"}, status=500)
        ids = [*self._renderer.encode(text), self._renderer.stop_token_ids[0]]
        limit = body["sampling_params"]["max_tokens"]
        reason = "length" if len(ids) > limit else "stop"
        ids = ids[:limit]
        logprobs = [{"token_id": i, "logprob": round(-self._rng.random(), 6)} for i in ids]
        spans = self._spans(len(ids), began=began, ended=self.status.version)
        choice = {
            "token_ids": ids,
            "finish_reason": reason,
            "weight_versions": spans,
            "logprobs": {"content": logprobs},
        }
        return web.json_response({"choices": [choice]})

    def _spans(self, length: int, *, began: str | None, ended: str | None) -> list[dict[str, Any]]:
        first, last = began or ended or "default", ended or began or "default"
        if first == last or length < 2:
            return [{"version": last, "start": 0, "end": length}]
        middle = self._rng.randrange(1, length)
        return [
            {"version": first, "start": 0, "end": middle},
            {"version": last, "start": middle, "end": length},
        ]

    def _reply(self, prompt: str) -> str | None:
        """A call to some expert, several, an answer, or nonsense; None: the engine breaks on it."""
        enums, task = _ENUM.search(prompt), _TASK.search(prompt)
        word, draw = task[2] if task else "", self._rng.random()
        if word == "cursed":
            return None
        if word == "silent" or draw < 0.04 or enums is None:
            return "la la la <tool_call>"
        names = re.findall(r'"([^"]+)"', enums[1])
        thought = "<think>" + "so long " * 30 + "</think>" if word == "long" else ""
        if '"question"' not in prompt:
            return thought + format_calls([ToolCall("answer", {"model": self._rng.choice(names)})])
        known = _BOXED.findall(prompt)
        if known:
            return f"{thought}It is \\boxed{{{self._rng.choice(known)}}}."
        what = f"add {task[3]} and {task[4]}" if task else "?"
        calls = []
        for number in range(self._rng.choice((1, 1, 1, 2, 3))):
            mark = f"{self.status.name.replace('-', '')}x{self.generations}x{number}"
            calls.append(ToolCall("ask", {"model": self._rng.choice(names), "question": f"{what} #{mark}"}))
        return thought + format_calls(calls)
