"""The breaker and the limits: when an expert is not asked, or no more than so often."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from support.expert_servers import (
    BOOK_PRICE,
    FAST,
    POOL_PRICE,
    REQUEST,
    Script,
    client,
    completion,
    serving,
)
from toolorchestra.experts.breaker import BreakerPolicy, Status
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.classify import LONGEST_PAUSE_SECONDS
from toolorchestra.experts.client import ExpertClient, RetryPolicy
from toolorchestra.experts.endpoint import Endpoint, Limits
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason, UnknownPool


async def test_the_breaker_opens_and_a_probe_closes_it() -> None:
    script = Script(500, 500, 500, completion())
    now = [0.0]
    async with serving(script) as url:
        experts = ExpertClient(
            [Endpoint(pool="oak", url=url, model="m", price=POOL_PRICE)],
            retry=RetryPolicy(attempts=1),
            breaker=BreakerPolicy(failures=3, open_seconds=10),
            clock=lambda: now[0],
        )
        async with experts:
            for _ in range(3):
                with pytest.raises(ExpertUnavailable, match="server_error"):
                    await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
            with pytest.raises(ExpertUnavailable) as caught:
                await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
            assert caught.value.reason is Reason.BREAKER_OPEN
            assert caught.value.retry_after == 10
            assert script.calls == 3
            now[0] = 10.0
            assert (await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)).text == "4"
            assert experts.breaker_status("oak") is Status.CLOSED


@pytest.mark.parametrize("status", [429, 400])
async def test_what_was_not_served_is_not_health(status: int) -> None:
    """A throttled or refused probe tells nothing of the model behind: the breaker stays as it was."""
    script = Script(500, 500, status, status, 500, completion())
    now = [0.0]
    async with serving(script) as url:
        experts = ExpertClient(
            [Endpoint(pool="oak", url=url, model="m", price=POOL_PRICE)],
            retry=RetryPolicy(attempts=1),
            breaker=BreakerPolicy(failures=2, open_seconds=10),
            clock=lambda: now[0],
        )
        async with experts:
            for _ in range(2):
                with pytest.raises(ExpertUnavailable, match="server_error"):
                    await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
            now[0] = 10.0
            for _ in range(2):
                with pytest.raises((ExpertUnavailable, ExpertRefused)):
                    await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
                assert experts.breaker_status("oak") is not Status.CLOSED
            with pytest.raises(ExpertUnavailable, match="server_error"):
                await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
            with pytest.raises(ExpertUnavailable, match="in a row; the last: HTTP 500") as caught:
                await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
            assert caught.value.retry_after == 20
            now[0] = 30.0
            assert (await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)).text == "4"
            assert experts.breaker_status("oak") is Status.CLOSED


async def test_a_wrong_key_is_still_wrong_while_nobody_tries_it() -> None:
    script = Script(401)
    async with serving(script) as url:
        endpoint = Endpoint(pool="oak", url=url, model="m", price=POOL_PRICE)
        async with ExpertClient([endpoint], breaker=BreakerPolicy(failures=2, open_seconds=100)) as experts:
            for _ in range(4):
                with pytest.raises(ExpertUnavailable, match="HTTP 401") as caught:
                    await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
                assert caught.value.reason is Reason.MISCONFIGURED
    assert script.calls == 2


async def test_a_pause_without_end_ends() -> None:
    """A `Retry-After` of 400 digits is infinite as a float."""
    busy = web.json_response({}, status=429, headers={"Retry-After": "9" * 400})
    now = [0.0]
    async with serving(Script(busy, completion())) as url:
        endpoint = Endpoint(pool="oak", url=url, model="m", price=POOL_PRICE)
        async with ExpertClient([endpoint], clock=lambda: now[0]) as experts:
            with pytest.raises(ExpertUnavailable) as caught:
                await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
            assert caught.value.retry_after == LONGEST_PAUSE_SECONDS
            now[0] = LONGEST_PAUSE_SECONDS
            assert (await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)).text == "4"


async def test_a_cancelled_probe_lets_the_next_one_through() -> None:
    release, arrived = asyncio.Event(), asyncio.Event()
    calls = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            return web.Response(status=500)
        arrived.set()
        if calls == 2:
            await release.wait()
        return web.json_response(completion())

    now = [0.0]
    async with serving(handler) as url:
        experts = ExpertClient(
            [Endpoint(pool="oak", url=url, model="m", price=POOL_PRICE, limits=Limits(max_concurrency=1))],
            retry=RetryPolicy(attempts=1),
            breaker=BreakerPolicy(failures=1, open_seconds=1),
            clock=lambda: now[0],
        )
        async with experts:
            with pytest.raises(ExpertUnavailable):
                await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
            now[0] = 1.0
            probe = asyncio.create_task(experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE))
            await arrived.wait()
            probe.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probe
            assert (await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)).text == "4"
            release.set()


async def test_never_more_in_flight_than_the_limit() -> None:
    inside = most = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1
        return web.json_response(completion())

    async with serving(handler) as url, client(url, limits=Limits(max_concurrency=3)) as experts:
        replies = await asyncio.gather(*(experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE) for _ in range(12)))
    assert most == 3
    assert max(r.usage.service_seconds for r in replies) < max(r.usage.wall_seconds for r in replies)


async def test_too_long_an_input_is_refused_before_it_is_paid() -> None:
    script = Script(completion())
    request = ChatRequest(messages=({"role": "user", "content": "x" * 4000},))
    async with serving(script) as url, client(url, limits=Limits(max_input_tokens=500)) as experts:
        with pytest.raises(ExpertRefused) as caught:
            await experts.ask(pool="oak", request=request, price=BOOK_PRICE)
    assert caught.value.reason is Reason.INPUT_TOO_LONG
    assert script.calls == 0


async def test_retries_stop_when_the_budget_is_spent() -> None:
    script = Script(503)
    retry = RetryPolicy(attempts=100, base_seconds=0.0001, cap_seconds=0.0002)
    async with serving(script) as url:
        endpoint = Endpoint(pool="oak", url=url, model="m", price=POOL_PRICE)
        async with ExpertClient([endpoint], retry=retry, breaker=BreakerPolicy(failures=10**6)) as experts:
            for _ in range(20):
                with pytest.raises(ExpertUnavailable):
                    await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert 20 < script.calls <= 20 + 10 + 20 * 0.2


async def test_an_unknown_pool_is_a_mistake_of_ours() -> None:
    async with client("http://127.0.0.1:1/v1", retry=FAST) as experts:
        with pytest.raises(UnknownPool, match=r"no expert pool 'elm' here; there are oak: start .* \(--pools\)"):
            await experts.ask(pool="elm", request=REQUEST, price=BOOK_PRICE)
