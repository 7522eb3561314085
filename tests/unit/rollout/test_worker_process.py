"""`orchestra worker` as a process: on a real nats-server, with HTTP servers where vLLM and an expert would be."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import nats
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from support.episode_world import ELM, OAK, RENDERER, answer, order_of
from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import Received, ResultKind
from toolorchestra.bus.streams import make_streams
from toolorchestra.local.nats_server import NatsServer
from toolorchestra.rollout.codec import decode_trace, encode_order
from toolorchestra.rollout.heartbeat import STOOD_STILL
from toolorchestra.rollout.pools import PoolEntry, PoolFile
from toolorchestra.rollout.routing import ENGINES_KEY
from toolorchestra.rollout.trace import Ending

UID = "uid"
COMMAND = [str(Path(sys.executable).with_name("orchestra")), "worker"]


@dataclass
class Site:
    """A training's surroundings: bus, engine, experts, and the files a worker is started with."""

    bus: NatsBus
    url: str
    folder: Path
    asked: asyncio.Queue[str]
    gate: asyncio.Event

    @property
    def arguments(self) -> list[str]:
        pools, model = str(self.folder / "pools.json"), str(self.folder)
        return ["--nats", self.url, "--uid", UID, "--pools", pools, "--model", model]

    async def submit(self, n: int) -> None:
        order = order_of(issue=f"{UID}.{n}.0.0.0")
        await self.bus.submit(Envelope(id=order.issue, body=encode_order(order), content="order/1"))

    async def take(self, count: int) -> list[Received]:
        taken: list[Received] = []
        async with asyncio.timeout(40):
            async for received in self.bus.results():
                await self.bus.ack(received)
                taken.append(received)
                if len(taken) == count:
                    return taken
        raise AssertionError("the bus was closed")


def write_model(folder: Path) -> None:
    RENDERER._tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "chat_template.jinja").write_bytes((files("toolorchestra.policy") / "chatml.jinja").read_bytes())


async def generate(request: web.Request) -> web.Response:
    await request.json()
    ids = [*RENDERER.encode(answer("oak")), RENDERER.stop_token_ids[0]]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "token_ids": ids,
        "weight_versions": [{"version": "0-5", "start": 0, "end": len(ids)}],
        "logprobs": {"content": [{"token_id": i, "logprob": -1.5} for i in ids]},
    }
    return web.json_response({"choices": [choice]})


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    asked: asyncio.Queue[str] = asyncio.Queue()
    gate = asyncio.Event()
    gate.set()

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        asked.put_nowait(body["model"])
        await gate.wait()
        message = {"role": "assistant", "content": r"\boxed{4}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_post("/inference/v1/generate", generate)
    server = NatsServer(directory=tmp_path / "nats", sync_always=False)
    async with TestServer(app) as http:
        base = str(http.make_url("")).rstrip("/")
        entries = [PoolEntry(pool=e.pool, url=f"{base}/v1", model=f"m-{e.alias}", price=e.price) for e in (OAK, ELM)]
        PoolFile(pools=tuple(entries)).write(tmp_path / "pools.json")
        write_model(tmp_path)
        await server.start()
        try:
            client = await nats.connect(server.url)
            await make_streams(client.jetstream(), uid=UID)
            await client.close()
            bus = await NatsBus.connect(server.url, uid=UID, name="test")
            state = {"engines": [{"url": base, "version": "0-5", "routable": True}], "paused": False}
            await bus.put(ENGINES_KEY, json.dumps(state).encode())
            yield Site(bus=bus, url=server.url, folder=tmp_path, asked=asked, gate=gate)
            gate.set()
            await bus.close()
        finally:
            await server.stop()


@asynccontextmanager
async def started(site: Site, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*COMMAND, *site.arguments, *options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_worker_process_plays_orders_and_ends_cleanly_on_sigterm(site: Site) -> None:
    async with started(site, "--name", "w-1", "--concurrency", "3") as process:
        for n in range(6):
            await site.submit(n)
        results = await site.take(6)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    traces = [decode_trace(received.envelope.body) for received in results]
    assert {t.issue for t in traces} == {f"{UID}.{n}.0.0.0" for n in range(6)}
    assert {(t.ending, t.worker, t.components.outcome) for t in traces} == {(Ending.ANSWERED, "w-1", 1.0)}
    assert traces[0].samples[0].segments[1].version == "0-5"
    assert traces[0].turns[0].calls[0].meter.tokens_in == 9


async def test_a_stopped_worker_hands_back_what_outlasts_its_grace(site: Site) -> None:
    site.gate.clear()
    await site.submit(1)
    async with started(site, "--grace", "0.1") as process:
        async with asyncio.timeout(30):
            assert await site.asked.get() == "m-oak"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    site.gate.set()
    async with started(site):
        (received,) = await site.take(1)
    assert received.kind is ResultKind.COMPLETED


async def test_a_worker_says_once_what_protects_from_untrusted_answers(site: Site) -> None:
    process = await asyncio.create_subprocess_exec(*COMMAND, *site.arguments, stderr=subprocess.PIPE)
    await site.submit(1)
    await site.take(1)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        _, log = await process.communicate()
    (line,) = [line for line in log.decode().splitlines() if "grades in a sandbox" in line]
    assert "active: own process, empty environment" in line
    assert "seccomp" in line


_STANDS_STILL = """
import sys
from toolorchestra.cli import main
from toolorchestra.rollout import episode

async def stand_still(self):
    print("now", flush=True)
    9**9**9  # holds the GIL for hours

episode.Episode.run = stand_still
sys.argv[0] = "orchestra"
main.main()
"""


async def test_a_worker_whose_loop_stands_still_ends_itself_and_says_where(site: Site, tmp_path: Path) -> None:
    """No Python code can run in it, no signal handler of Python's either."""
    beat = tmp_path / "heartbeat"
    beat.write_text("of an earlier life")
    command = [sys.executable, "-c", _STANDS_STILL, "worker", *site.arguments, "--stall", "1", "--heartbeat", str(beat)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await site.submit(1)
    async with asyncio.timeout(60):
        said, log = await process.communicate()
    assert process.returncode == STOOD_STILL
    assert said == b"now\n"
    assert b"in stand_still" in log
    assert b"ends with status 14" in log
    assert beat.read_text() == ""


async def test_a_killed_workers_parent_takes_it_along(site: Site) -> None:
    """A process in between is the parent; once it is killed, the worker must be gone."""
    command = [*COMMAND, *site.arguments, "--die-with-parent"]
    script = f"import subprocess; p = subprocess.Popen({command!r}); print(p.pid, flush=True); p.wait()"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    worker_pid = int(await parent.stdout.readline())
    await site.submit(1)
    await site.take(1)
    pidfd = os.pidfd_open(worker_pid)
    parent.kill()
    await parent.wait()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


def refused(*arguments: str) -> str:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_bad_pool_file_is_a_message(tmp_path: Path) -> None:
    pools = tmp_path / "pools.json"
    pools.write_text('{"pools": [{"pool": "p"}]}')
    nowhere = f"nats://127.0.0.1:{unused_port()}"
    assert "pools.0.url: Field required" in refused("--nats", nowhere, "--uid", "u", "--pools", str(pools))
