"""The client against real servers that fail in every way it promises to survive."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from aiohttp import web

from support.expert_servers import (
    BOOK_PRICE,
    POOL_PRICE,
    REQUEST,
    TASK,
    Script,
    client,
    completion,
    raw_server,
    serving,
)
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.endpoint import Limits
from toolorchestra.experts.errors import ExpertUnavailable, Reason
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
