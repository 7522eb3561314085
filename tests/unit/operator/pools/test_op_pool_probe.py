"""Whether an expert answers: real servers on real sockets, and nobody waits for a slow one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from support.cluster.pool_world import HERE
from toolorchestra.api.conditions import Reason
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.pools import probe
from toolorchestra_operator.pools.probe import Answer, Prober, Target

POOL = Key("ExpertPool", "default", "oak")
START = datetime(2030, 1, 1, tzinfo=UTC)


class Expert:
    """A server that answers as it is told; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.status, self.url = 200, ""
        self.answers: Any = {"data": [{"id": "oak"}]}
        self.released = asyncio.Event()
        self.released.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.path, request.headers.get("Authorization", ""), body))
        await self.released.wait()
        if isinstance(self.answers, str):
            return web.Response(status=self.status, text=self.answers, headers={"Location": "http://elsewhere/"})
        return web.json_response(self.answers, status=self.status)


@pytest.fixture
async def expert() -> AsyncIterator[Expert]:
    made = Expert()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield made
    made.released.set()
    await runner.cleanup()


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def passes(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def prober(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Prober]:
    monkeypatch.setattr(probe, "_RETRY_SECONDS", 0.01)
    made = Prober(HERE, patience=20, now=clock)
    yield made
    await made.close()


def models(expert: Expert, **fields: Any) -> Target:
    return Target("Models", expert.url, "oak", **fields)


async def told(prober: Prober, target: Target) -> Answer:
    answer = await prober.answer(POOL, target)
    assert answer is not None
    return answer


async def test_the_list_of_models_with_the_key(expert: Expert, prober: Prober) -> None:
    answer = await told(prober, models(expert, key="k"))
    assert answer == Answer("Models", Reason.PROBE_ANSWERED, "it lists the model", START, "oak")
    assert answer.ok
    assert expert.asked == [("/v1/models", "Bearer k", None)]


async def test_one_paid_token(expert: Expert, prober: Prober) -> None:
    expert.answers = {"model": "oak-2030-01-01", "choices": []}
    target = Target("Completion", expert.url + "/", "oak", max_tokens="max_completion_tokens")
    answer = await told(prober, target)
    assert (answer.ok, answer.served_model) == (True, "oak"), "not what the reply says"
    ((path, key, body),) = expert.asked
    assert (path, key) == ("/v1/chat/completions", "")
    assert body == {
        "model": "oak",
        "messages": [{"role": "user", "content": "ping"}],
        "max_completion_tokens": 1,
    }


async def test_a_reasoning_model_that_needs_more_than_a_token_has_answered(expert: Expert, prober: Prober) -> None:
    expert.status = 400
    expert.answers = {"error": {"message": "Could not finish: max_tokens or model output limit was reached."}}
    assert (await told(prober, Target("Completion", expert.url, "oak"))).ok


@pytest.mark.parametrize(
    ("status", "answers", "reason", "words"),
    [
        (200, {"data": [{"id": "elm-secret"}]}, Reason.WRONG_MODEL_SERVED, "it does not list oak"),
        (200, {"data": []}, Reason.WRONG_MODEL_SERVED, "it does not list oak"),
        (200, {"data": 5}, Reason.WRONG_MODEL_SERVED, "it does not list oak"),
        (200, {}, Reason.WRONG_MODEL_SERVED, "it does not list oak"),
        (200, "<html>secret", Reason.PROBE_FAILED, "HTTP 200: its reply is not JSON"),
        (200, "[" * 100_000, Reason.PROBE_FAILED, "not JSON"),
        (200, ["secret"], Reason.PROBE_FAILED, "not JSON"),
        (401, {"error": {"message": "secret"}}, Reason.PROBE_FAILED, "the API key is refused, or missing"),
        (403, {"error": "secret"}, Reason.PROBE_FAILED, "the API key may not do this"),
        (404, "secret", Reason.PROBE_FAILED, "should it end in /v1?"),
        (429, {"message": "secret"}, Reason.PROBE_FAILED, "HTTP 429: it answers with an error"),
        (500, "secret", Reason.PROBE_FAILED, "HTTP 500: it answers with an error"),
        (302, "secret", Reason.PROBE_FAILED, "it redirects"),
    ],
)
async def test_what_is_no_answer(
    expert: Expert, prober: Prober, status: int, answers: Any, reason: Reason, words: str
) -> None:
    expert.status, expert.answers = status, answers
    answer = await told(prober, models(expert))
    assert answer.reason is reason
    assert words in answer.message
    assert "secret" not in answer.message, "a reply is not repeated: the URL may be anybody's"
    assert len(expert.asked) == (2 if status == 500 else 1)


async def test_nobody_there(prober: Prober) -> None:
    answer = await told(prober, Target("Models", "http://127.0.0.1:1/v1", "oak"))
    assert answer.reason is Reason.PROBE_FAILED
    assert "cannot connect to 127.0.0.1:1" in answer.message
    answer = await told(prober, Target("Models", "http://127.0.0.1:x/v1", "oak"))
    assert answer.reason is Reason.PROBE_FAILED


async def test_what_may_have_been_paid_for_is_not_asked_twice(expert: Expert, prober: Prober) -> None:
    expert.status = 500
    await told(prober, Target("Completion", expert.url, "oak"))
    assert len(expert.asked) == 1


async def test_an_answer_counts_until_the_next_is_due(expert: Expert, prober: Prober, clock: Clock) -> None:
    first = await told(prober, models(expert))
    clock.passes(59)
    assert await told(prober, models(expert)) is first
    assert first.due - clock() == timedelta(seconds=1)
    expert.status = 401
    clock.passes(1)
    assert not (await told(prober, models(expert))).ok
    clock.passes(14)
    assert len(expert.asked) == 2
    expert.status = 200
    await told(prober, models(expert))
    assert len(expert.asked) == 2
    clock.passes(1)
    assert (await told(prober, models(expert))).ok, "it heals, and is asked sooner where the answer was bad"


async def test_another_key_or_url_is_asked_at_once(expert: Expert, prober: Prober) -> None:
    await told(prober, models(expert, key="old"))
    await told(prober, models(expert, key="new"))
    assert [key for _, key, _ in expert.asked] == ["Bearer old", "Bearer new"]


async def test_nobody_waits_for_a_slow_one(expert: Expert, clock: Clock) -> None:
    expert.released.clear()
    prober = Prober(HERE, patience=0.05, now=clock)
    try:
        assert await prober.answer(POOL, models(expert)) is None
        assert await prober.answer(POOL, models(expert)) is None
        assert len(expert.asked) == 1, "one at a time"
        expert.released.set()
        async with asyncio.timeout(20):
            while await prober.answer(POOL, models(expert)) is None:
                pass
        expert.released.clear()
        clock.passes(60)
        last = await prober.answer(POOL, models(expert))
        assert last is not None
        assert last.at == START, "the last answer counts until there is another"
    finally:
        await prober.close()


async def test_what_is_forgotten_is_cancelled(expert: Expert, clock: Clock) -> None:
    expert.released.clear()
    prober = Prober(HERE, patience=0.05, now=clock)
    await prober.answer(POOL, models(expert))
    prober.forget(POOL)
    prober.forget(POOL)
    assert await prober.answer(POOL, models(expert)) is None
    await prober.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("probe")]


def test_a_key_is_not_shown() -> None:
    assert "hush" not in repr(Target("Models", "http://x", "m", key="hush"))
