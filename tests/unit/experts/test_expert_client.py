"""The client against real servers that fail in every way it promises to survive."""

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
    FAST,
    POOL_PRICE,
    REQUEST,
    TASK,
    Script,
    client,
    completion,
    raw_server,
    serving,
)
from toolorchestra.experts.breaker import BreakerPolicy, Status
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.classify import LONGEST_PAUSE_SECONDS
from toolorchestra.experts.client import ExpertClient, RetryPolicy
from toolorchestra.experts.endpoint import Endpoint, Limits
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason, UnknownPool
from toolorchestra.experts.simulated import SECONDS_HEADER, TASK_HEADER, SimulatedTask


async def test_a_reply_is_metered_on_both_ledgers() -> None:
    script = Script(completion(" 4 "))
    async with serving(script) as url, client(url) as experts:
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
        worst = experts.worst_case_usd(pool="oak", request=REQUEST)
    usage = reply.usage
    assert (reply.text, reply.model, reply.finish_reason) == (" 4 ", "m", "stop")
    assert (usage.tokens_in, usage.tokens_out, usage.tokens_cached) == (100, 50, 40)
    assert usage.actual_usd == Decimal("0.0002")
    assert usage.nominal_usd == Decimal("0.002")
    assert 0 < usage.service_seconds <= usage.wall_seconds
    assert not usage.simulated
    assert not reply.usage_estimated
    assert usage.actual_usd < worst


async def test_the_wire_carries_what_the_pool_says() -> None:
    script = Script(completion())
    names = {"maxTokens": "max_completion_tokens"}
    request = ChatRequest(
        messages=REQUEST.messages, tools=({"type": "function"},), max_output_tokens=9000, parameters={"topP": 0.5}
    )
    async with (
        serving(script) as url,
        client(
            url,
            api_key="key-1",
            parameters={"temperature": 0.2, "topP": 1.0},
            parameter_names=names,
            limits=Limits(max_output_tokens=700),
        ) as experts,
    ):
        await experts.ask(pool="oak", request=request, price=BOOK_PRICE, task=TASK)
    assert script.bodies[0] == {
        "model": "m",
        "messages": list(REQUEST.messages),
        "tools": [{"type": "function"}],
        "temperature": 0.2,
        "top_p": 0.5,
        "max_completion_tokens": 700,
    }
    assert script.headers[0]["authorization"] == "Bearer key-1"
    assert TASK_HEADER not in script.headers[0], "a real endpoint must never learn the right answer"


async def test_tool_calls_and_parts_are_read() -> None:
    message = {
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1'}}],
    }
    parts = completion([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}])
    script = Script({"choices": [{"message": message, "finish_reason": "tool_calls"}]}, parts)
    async with serving(script) as url, client(url) as experts:
        called = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
        spoken = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert [(c.id, c.name, c.arguments) for c in called.tool_calls] == [("c1", "f", '{"x": 1')]
    assert called.usage_estimated
    assert called.usage.actual_usd > 0
    assert spoken.text == "42"


async def test_a_simulated_pool_is_told_the_task_and_believed_about_time() -> None:
    script = Script(web.json_response(completion(), headers={SECONDS_HEADER: "12.5"}))
    async with serving(script) as url, client(url, simulated=True) as experts:
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=TASK)
    assert reply.usage.service_seconds == 12.5
    assert reply.usage.simulated
    assert reply.usage.wall_seconds < 12
    assert SimulatedTask.parse(script.headers[0][TASK_HEADER]) == SimulatedTask("sums/1", "sums", "4")


async def test_a_simulator_behind_a_real_pool_is_refused() -> None:
    script = Script(web.json_response(completion(), headers={SECONDS_HEADER: "12.5"}))
    async with serving(script) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable, match="simulated: true") as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert caught.value.reason is Reason.MISCONFIGURED


@pytest.mark.parametrize("status", [409, 425, 429, 503, 521, 529])
async def test_what_was_not_served_is_tried_again_for_nothing(status: int) -> None:
    script = Script(status, status, completion())
    async with serving(script) as url, client(url) as experts:
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert reply.text == "4"
    assert script.calls == 3
    assert reply.usage.actual_usd == POOL_PRICE.of(tokens_in=100, tokens_out=50), "failed attempts are not paid"


@pytest.mark.parametrize("status", [408, 424, 500, 502, 504, 520, 522, 524])
async def test_what_may_have_been_paid_is_tried_again_under_a_new_reservation(status: int) -> None:
    reserved: list[Decimal] = []

    def reserve(usd: Decimal) -> bool:
        reserved.append(usd)
        return True

    script = Script(status, 429, completion())
    async with serving(script) as url, client(url) as experts:
        worst = experts.worst_case_usd(pool="oak", request=REQUEST)
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, reserve=reserve)
    assert script.calls == 3
    assert reserved == [worst], "the 429 left its reservation to the next attempt"
    assert reply.usage.actual_usd == worst + POOL_PRICE.of(tokens_in=100, tokens_out=50)
    assert reply.usage.wasted_usd == worst
    assert reply.usage.nominal_usd == BOOK_PRICE.of(tokens_in=100, tokens_out=50), "the policy pays for its answer only"


@pytest.mark.parametrize("room", [False, None])
async def test_without_room_for_another_attempt_there_is_none(room: bool | None) -> None:
    script = Script(502, completion())
    reserve = None if room is None else lambda usd: room
    async with serving(script) as url, client(url) as experts:
        worst = experts.worst_case_usd(pool="oak", request=REQUEST)
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, reserve=reserve)
    assert script.calls == 1
    assert caught.value.usage.actual_usd == caught.value.usage.wasted_usd == worst


@pytest.mark.parametrize(
    ("status", "reason", "calls", "paid"),
    [
        (500, Reason.SERVER_ERROR, 2, 2),
        (502, Reason.SERVER_ERROR, 2, 2),
        (504, Reason.TIMEOUT, 2, 2),
        (524, Reason.TIMEOUT, 2, 2),
        (418, Reason.SERVER_ERROR, 1, 1),
        (204, Reason.GARBAGE, 1, 1),
        (429, Reason.THROTTLED, 4, 0),
        (503, Reason.SERVER_ERROR, 4, 0),
        (501, Reason.SERVER_ERROR, 1, 0),
        (401, Reason.MISCONFIGURED, 1, 0),
        (402, Reason.MISCONFIGURED, 1, 0),
        (404, Reason.MISCONFIGURED, 1, 0),
        (302, Reason.MISCONFIGURED, 1, 0),
    ],
)
async def test_lasting_trouble_is_unavailable(status: int, reason: Reason, calls: int, paid: int) -> None:
    script = Script(status)
    async with serving(script) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, reserve=lambda usd: True)
        worst = experts.worst_case_usd(pool="oak", request=REQUEST)
    assert caught.value.reason is reason
    assert caught.value.attempts == script.calls == calls
    assert caught.value.usage.actual_usd == paid * worst
    assert f"HTTP {status}" in str(caught.value)


async def test_retry_after_is_obeyed_by_all_callers() -> None:
    busy = web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.3"})
    script = Script(busy, completion())
    async with serving(script) as url, client(url) as experts:
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = asyncio.create_task(experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE))
        await script.asked.wait()
        replies = await asyncio.gather(first, experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE))
        took = loop.time() - began
    assert took >= 0.29
    assert script.calls == 3
    assert all(r.usage.service_seconds < 0.25 for r in replies), "waiting is not service"
    assert replies[0].usage.wall_seconds >= 0.29


async def test_a_long_retry_after_defers_at_once() -> None:
    busy = web.json_response({"error": {"message": "closed"}}, status=429, headers={"Retry-After": "3600"})
    script = Script(busy)
    async with serving(script) as url, client(url) as experts:
        for _ in range(2):
            with pytest.raises(ExpertUnavailable) as caught:
                await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
            assert caught.value.retry_after == pytest.approx(3600, abs=5)
    assert script.calls == 1, "the second call must not be sent"


@pytest.mark.parametrize(
    "body", [b"", b"   ", b"<html>hello</html>", b"[1, 2]", b'{"choices": []}', b'{"choices": [{"message": {"content"']
)
async def test_garbage_is_unavailable_and_counts_as_paid(body: bytes) -> None:
    script = Script(web.Response(body=body, content_type="application/json"))
    async with serving(script) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
        worst = experts.worst_case_usd(pool="oak", request=REQUEST)
    assert caught.value.reason is Reason.GARBAGE
    assert script.calls == 1, "what may have been paid is not asked again"
    assert caught.value.usage.actual_usd == worst > 0
    assert caught.value.usage.nominal_usd == 0


@pytest.mark.parametrize(
    ("reply", "reason", "attempts", "paid"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{", Reason.GARBAGE, 2, 2),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a"', Reason.GARBAGE, 2, 2),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", Reason.GARBAGE, 2, 2),
        (b"\x00\x01\x02 not http\r\n\r\n", Reason.GARBAGE, 1, 1),
        (b"", Reason.CONNECTION, 2, 2),
        (b"HTTP/1.1 429 Slow\r\nContent-Length: 4000\r\n\r\n{", Reason.THROTTLED, 4, 0),
        (b"HTTP/1.1 401 No\r\nContent-Length: 4000\r\n\r\n{", Reason.MISCONFIGURED, 1, 0),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 4000\r\n\r\n{", Reason.GARBAGE, 4, 0),
    ],
)
async def test_half_replies(reply: bytes, reason: Reason, attempts: int, paid: int) -> None:
    """A connection that is dropped after the request was sent may have been paid, headers or not."""
    async with raw_server(reply) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, reserve=lambda usd: True)
        worst = experts.worst_case_usd(pool="oak", request=REQUEST)
    assert caught.value.reason is reason
    assert caught.value.attempts == attempts
    assert caught.value.usage.actual_usd == paid * worst


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
