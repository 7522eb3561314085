"""The engine client and the pool against real HTTP servers that speak vLLM's generate protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from toolorchestra.policy.engine import (
    EngineLost,
    EngineRefusedConnection,
    GenerationParameters,
    NoEngine,
    VersionSpan,
    VLLMEngine,
    read_generation,
)
from toolorchestra.policy.pool import EnginePool, EngineRecord

PARAMETERS = GenerationParameters(max_tokens=8, stop_token_ids=(2, 0))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(ids: list[int], *, spans: Any = None, reason: str = "stop", **extra: Any) -> dict[str, Any]:
    content = [{"token_id": i, "logprob": -0.25, "top_logprobs": []} for i in ids]
    spans = [{"version": "0-3", "start": 0, "end": len(ids)}] if spans is None else spans
    choice = {"index": 0, "token_ids": ids, "finish_reason": reason, "weight_versions": spans}
    return {"choices": [{**choice, "logprobs": {"content": content}, **extra}], "usage": {"prompt_tokens": 3}}


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/inference/v1/generate", handler)
    async with TestServer(app) as server:
        yield str(server.make_url(""))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def replying(payload: Any, *, status: int = 200, seen: list[Any] | None = None) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        if seen is not None:
            seen.append(await request.json())
        return web.json_response(payload, status=status)

    return handler


async def test_every_sampling_parameter_is_sent(session: aiohttp.ClientSession) -> None:
    seen: list[Any] = []
    async with serving(replying(answer([5, 2]), seen=seen)) as url:
        await VLLMEngine(url, session=session).generate([1, 2, 3], parameters=PARAMETERS)
    (body,) = seen
    assert body["token_ids"] == [1, 2, 3]
    sampling = body["sampling_params"]
    assert {k: sampling[k] for k in ("temperature", "top_p", "top_k", "min_p", "max_tokens", "logprobs")} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "max_tokens": 8,
        "logprobs": 0,
    }
    assert (sampling["presence_penalty"], sampling["repetition_penalty"], sampling["stop_token_ids"]) == (0, 1, [2, 0])
    assert "seed" not in body | sampling, "vLLM dies on the CPU of a seeded request that it prefills in parts"


async def test_tokens_logprobs_and_versions_come_back(session: aiohttp.ClientSession) -> None:
    spans = [{"version": "0-3", "start": 0, "end": 1}, {"version": "0-4", "start": 1, "end": 3}]
    async with serving(replying(answer([5, 6, 2], spans=spans))) as url:
        generation = await VLLMEngine(url, session=session).generate([1], parameters=PARAMETERS)
    assert generation.token_ids == (5, 6, 2)
    assert generation.logprobs == (-0.25,) * 3
    assert generation.spans == (VersionSpan("0-3", 0, 1), VersionSpan("0-4", 1, 3))
    assert not generation.truncated
    assert 0 < generation.service_seconds == generation.wall_seconds


def test_weights_never_updated_are_those_the_engine_started_with() -> None:
    payload = answer([5], spans=[{"version": "default", "start": 0, "end": 1}])
    assert read_generation(payload, started_with="1-7", elapsed=0, source="e").spans == (VersionSpan("1-7", 0, 1),)
    with pytest.raises(EngineLost, match="unreadable"):
        read_generation(payload, started_with=None, elapsed=0, source="e")


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"choices": []},
        answer([5], reason="abort"),
        answer([]),
        answer([5, 6], spans=[{"version": "0-1", "start": 0, "end": 1}]),
        answer([5, 6], spans=[{"version": "0-1", "start": 0, "end": 1}, {"version": "0-1", "start": 0, "end": 2}]),
        answer([5], logprobs=None),
        answer([5], logprobs={"content": [{"token_id": 6, "logprob": -1.0}]}),
        answer([5], logprobs={"content": [{"token_id": 5, "logprob": float("nan")}]}),
        answer([5], logprobs={"content": [{"token_id": 5, "logprob": None}]}),
        answer([5], logprobs={"content": [{"token_id": 5, "logprob": float("-inf")}]}),
        answer([5], logprobs={"content": [{"token_id": 5, "logprob": -9999.0}]}),
        answer([5], logprobs={"content": [{"token_id": 5, "logprob": 0.5}]}),
    ],
)
def test_an_answer_that_does_not_add_up_is_lost(payload: dict[str, Any]) -> None:
    with pytest.raises(EngineLost):
        read_generation(payload, started_with="0-0", elapsed=0, source="e")


@pytest.mark.parametrize(("status", "kind"), [(500, EngineLost), (400, EngineLost), (503, EngineRefusedConnection)])
async def test_statuses(status: int, kind: type[EngineLost], session: aiohttp.ClientSession) -> None:
    async with serving(replying({"error": "why"}, status=status)) as url:
        with pytest.raises(EngineLost) as caught:
            await VLLMEngine(url, session=session).generate([1], parameters=PARAMETERS)
    assert type(caught.value) is kind


async def test_no_answer_in_time_is_lost(session: aiohttp.ClientSession) -> None:
    release = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await release.wait()
        return web.json_response({})

    async with serving(hang) as url:
        with pytest.raises(EngineLost, match=r"no answer in 0\.1 s"):
            await VLLMEngine(url, session=session, timeout_seconds=0.1).generate([1], parameters=PARAMETERS)
        release.set()


async def test_a_pinned_version_is_checked_against_the_spans(session: aiohttp.ClientSession) -> None:
    async with serving(replying(answer([5]))) as url:
        engine = VLLMEngine(url, session=session)
        await engine.generate([1], parameters=PARAMETERS, version="0-3")
        with pytest.raises(EngineLost, match="pinned"):
            await engine.generate([1], parameters=PARAMETERS, version="0-2")


def pool_of(session: aiohttp.ClientSession, *records: EngineRecord, wait_seconds: float = 5.0) -> EnginePool:
    return EnginePool(connect=lambda url: VLLMEngine(url, session=session), records=records, wait_seconds=wait_seconds)


async def test_the_least_busy_engine_is_asked(session: aiohttp.ClientSession) -> None:
    counts = {"a": 0, "b": 0}
    release = asyncio.Event()
    arrived = asyncio.Semaphore(0)

    def counting(name: str) -> Handler:
        async def handler(request: web.Request) -> web.Response:
            counts[name] += 1
            arrived.release()
            await release.wait()
            return web.json_response(answer([5]))

        return handler

    async with serving(counting("a")) as a, serving(counting("b")) as b:
        pool = pool_of(session, EngineRecord(a), EngineRecord(b))
        running = [asyncio.create_task(pool.generate([1], parameters=PARAMETERS)) for _ in range(6)]
        for _ in running:
            await arrived.acquire()
        release.set()
        await asyncio.gather(*running)
    assert counts == {"a": 3, "b": 3}


async def test_a_refused_connection_goes_to_the_next_engine(session: aiohttp.ClientSession) -> None:
    async with serving(replying(answer([5]))) as url:
        pool = pool_of(session, EngineRecord(f"http://127.0.0.1:{unused_port()}"), EngineRecord(url))
        for _ in range(3):
            assert (await pool.generate([1], parameters=PARAMETERS)).token_ids == (5,)


async def test_a_failed_generation_is_not_repeated(session: aiohttp.ClientSession) -> None:
    seen: list[Any] = []
    async with serving(replying({}, status=500, seen=seen)) as url:
        pool = pool_of(session, EngineRecord(url), EngineRecord(url + "/"))
        with pytest.raises(EngineLost, match="500"):
            await pool.generate([1], parameters=PARAMETERS)
    assert len(seen) == 1


async def test_waiting_while_paused_is_not_service_time(session: aiohttp.ClientSession) -> None:
    async with serving(replying(answer([5]))) as url:
        now = 100.0
        pool = EnginePool(
            connect=lambda u: VLLMEngine(u, session=session), records=[EngineRecord(url)], clock=lambda: now
        )
        pool.update([EngineRecord(url)], paused=True)
        running = asyncio.create_task(pool.generate([1], parameters=PARAMETERS))
        await asyncio.sleep(0)
        assert not running.done()
        now = 130.0
        pool.update([EngineRecord(url)])
        generation = await running
    assert generation.wall_seconds == 30.0
    assert generation.service_seconds < 5


async def test_a_pause_during_a_generation_is_not_service_time(session: aiohttp.ClientSession) -> None:
    now = 100.0

    async def pausing(request: web.Request) -> web.Response:
        nonlocal now
        pool.update([EngineRecord(url)], paused=True)
        now += 1000.0
        pool.update([EngineRecord(url)])
        return web.json_response(answer([5]))

    async with serving(pausing) as url:
        pool = EnginePool(
            connect=lambda u: VLLMEngine(u, session=session), records=[EngineRecord(url)], clock=lambda: now
        )
        generation = await pool.generate([1], parameters=PARAMETERS)
    assert generation.service_seconds == 0.0
    assert generation.wall_seconds == 1000.0


async def test_the_wait_for_an_engine_is_bounded_and_says_why(session: aiohttp.ClientSession) -> None:
    pool = pool_of(session, EngineRecord("http://e", version="0-1", routable=False), wait_seconds=0.05)
    with pytest.raises(EngineLost, match=r"no routable engine in 0\.05 s"):
        await pool.generate([1], parameters=PARAMETERS)
    pool.update([EngineRecord("http://e", version="0-1")])
    with pytest.raises(EngineLost, match="version 0-2"):
        await pool.generate([1], parameters=PARAMETERS, version="0-2")


@pytest.mark.parametrize(
    ("records", "paused"),
    [([], False), ([EngineRecord("http://e", routable=False)], False), ([EngineRecord("http://e")], True)],
    ids=["none", "none that is routable", "paused"],
)
async def test_that_the_training_has_no_engine_is_no_loss_of_the_episodes(
    records: list[EngineRecord], paused: bool, session: aiohttp.ClientSession
) -> None:
    pool = pool_of(session, wait_seconds=0.01)
    pool.update(records, paused=paused)
    with pytest.raises(NoEngine):
        await pool.routable()
    with pytest.raises(NoEngine):
        await pool.generate([1], parameters=PARAMETERS)


async def test_an_engine_that_only_we_miss_is_lost(session: aiohttp.ClientSession) -> None:
    """Of these the training knows nothing: waited for without an end, the run would stand still and not say why."""
    refusing = EngineRecord(f"http://127.0.0.1:{unused_port()}", version="0-1")
    untold = pool_of(session, wait_seconds=0.01)
    other = pool_of(session, EngineRecord("http://e", version="0-1"), wait_seconds=0.01)
    for waiting in (
        untold.routable(),
        other.routable(version="0-2"),
        pool_of(session, refusing, wait_seconds=0.05).generate([1], parameters=PARAMETERS),
    ):
        with pytest.raises(EngineLost) as caught:
            await waiting
        assert caught.type is EngineLost


async def test_an_engine_that_becomes_routable_ends_the_wait(session: aiohttp.ClientSession) -> None:
    async with serving(replying(answer([5]))) as url:
        pool = pool_of(session)
        running = asyncio.create_task(pool.generate([1], parameters=PARAMETERS))
        await asyncio.sleep(0)
        pool.update([EngineRecord.read({"url": url, "version": "0-3", "routable": True, "gpu": 1})])
        assert (await running).token_ids == (5,)
