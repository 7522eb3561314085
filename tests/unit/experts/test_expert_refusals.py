"""An expert that cannot be reached, says nonsense or refuses: what it is called, and what it costs."""

from __future__ import annotations

import asyncio
import gzip
import resource
import socket
from decimal import Decimal

import pytest
from aiohttp import web

from support.expert_servers import (
    BOOK_PRICE,
    POOL_PRICE,
    REQUEST,
    Script,
    client,
    completion,
    raw_server,
    serving,
)
from toolorchestra.experts.breaker import Status
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason


async def test_no_tls_is_no_request() -> None:
    async with raw_server(b"not tls") as url, client(url.replace("http:", "https:")) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert (caught.value.reason, caught.value.attempts) == (Reason.CONNECTION, 4)
    assert caught.value.usage.actual_usd == 0


async def test_no_such_host_is_no_request() -> None:
    async with client("http://nobody.invalid/v1") as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert (caught.value.reason, caught.value.attempts) == (Reason.CONNECTION, 4)
    assert caught.value.usage.actual_usd == 0


async def test_an_error_that_never_ends_is_read_no_further_than_its_words() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=401)
        await response.prepare(request)
        while True:
            await response.write(b"wrong key " * 1000)

    async with asyncio.timeout(20), serving(endless) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable, match="wrong key wrong key") as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert caught.value.reason is Reason.MISCONFIGURED


async def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * (256 * 1024 * 1024), compresslevel=1)
    reply = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(bomb), bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with raw_server(reply) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert caught.value.reason is Reason.GARBAGE
    assert caught.value.usage.actual_usd > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 160 * 1024, "KiB"


async def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        async with client(f"http://127.0.0.1:{taken.getsockname()[1]}/v1") as experts:
            with pytest.raises(ExpertUnavailable) as caught:
                await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert caught.value.reason is Reason.CONNECTION
    assert caught.value.usage.actual_usd == 0


@pytest.mark.parametrize("headers_first", [False, True])
async def test_a_silent_server_times_out_once(headers_first: bool) -> None:
    hanging = asyncio.Event()
    calls = 0

    async def silent(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        response = web.StreamResponse(headers={"Content-Length": "10"})
        if headers_first:
            await response.prepare(request)
            await response.write(b"{")
        await hanging.wait()
        return response

    async with serving(silent) as url, client(url, timeout_seconds=0.2) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
        hanging.set()
    assert caught.value.reason is Reason.TIMEOUT
    assert calls == 1
    assert caught.value.usage.actual_usd > 0
    assert caught.value.usage.wall_seconds >= 0.19


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, {"message": "This model's maximum context length is 8192 tokens"}, Reason.INPUT_TOO_LONG),
        (400, {"message": "no", "code": "context_length_exceeded"}, Reason.INPUT_TOO_LONG),
        (413, {"message": "too large"}, Reason.INPUT_TOO_LONG),
        (400, {"message": "flagged", "code": "content_policy_violation"}, Reason.CONTENT_FILTER),
        (422, {"message": "bad messages"}, Reason.BAD_REQUEST),
    ],
)
async def test_refusals_are_observations(status: int, error: dict[str, str], reason: Reason) -> None:
    script = Script(web.json_response({"error": error}, status=status))
    async with serving(script) as url, client(url) as experts:
        with pytest.raises(ExpertRefused) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
        assert experts.breaker_status("oak") is Status.CLOSED
    assert caught.value.reason is reason
    assert script.calls == 1
    assert error["message"] in caught.value.observation
    assert "oak" not in caught.value.observation, "the policy knows aliases only"
    assert caught.value.usage.actual_usd == 0


@pytest.mark.parametrize(
    ("message", "finish", "reason"),
    [
        ({"content": ""}, "length", Reason.EMPTY),
        ({"content": None, "refusal": "I will not."}, "stop", Reason.DECLINED),
        ({"content": "4"}, "content_filter", Reason.CONTENT_FILTER),
    ],
)
async def test_a_completion_that_refuses_is_paid(message: dict[str, str], finish: str, reason: Reason) -> None:
    script = Script(completion(choices=[{"message": message, "finish_reason": finish}]))
    async with serving(script) as url, client(url) as experts:
        with pytest.raises(ExpertRefused) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert caught.value.reason is reason
    assert caught.value.usage.tokens_out == 50
    assert caught.value.usage.nominal_usd == Decimal("0.002")


async def test_wrong_parameters_are_our_fault() -> None:
    error = {"error": {"message": "use max_completion_tokens", "code": "unsupported_parameter"}}
    async with serving(Script(web.json_response(error, status=400))) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert caught.value.reason is Reason.MISCONFIGURED


async def test_an_empty_account_is_not_hammered() -> None:
    error = {"error": {"message": "quota", "code": "insufficient_quota"}}
    script = Script(web.json_response(error, status=429))
    async with serving(script) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert caught.value.reason is Reason.MISCONFIGURED
    assert script.calls == 1


async def test_the_key_never_shows() -> None:
    error = {"error": {"message": "incorrect key: key-1 (see docs)"}}
    script = Script(web.json_response(error, status=401))
    async with serving(script) as url, client(url, api_key="key-1") as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert "key-1" not in str(caught.value)
    assert "key-1" not in repr(Endpoint(pool="p", url="u", model="m", price=POOL_PRICE, api_key="key-1"))
