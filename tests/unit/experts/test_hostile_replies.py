"""The campaign: thousands of hostile replies through the real client, over real sockets. Each call ends in a typed
outcome, none escapes, and none is billed below what its provider could charge."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from support.expert_servers import BOOK_PRICE, POOL_PRICE, REQUEST, TASK, endpoint
from support.hostile_replies import Reply, could_charge, replies
from toolorchestra.experts.client import ExpertClient, RetryPolicy
from toolorchestra.experts.errors import Reason
from toolorchestra.experts.metering import max_output_tokens
from toolorchestra.experts.worst_case import TEMPLATE_TOKENS
from toolorchestra.rollout.budget import EpisodeBudget
from toolorchestra.rollout.calls import CallsResult, ExpertRequest, execute
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.rollout.trace import Call, Ending
from toolorchestra.tools.view import ExpertView

RETRY = RetryPolicy(base_seconds=0.0, cap_seconds=0.0, patience_seconds=0.0)
VIEW = ExpertView(alias="oak-1", pool="oak", description="d", price=BOOK_PRICE, latency_ms=1)
LIMITS = EpisodeLimits(max_turns=1, max_prompt_tokens=1, max_response_tokens=1, timeout_seconds=1)
ALLOWANCE = Decimal(1)
IN, OUT = REQUEST.size_bytes + TEMPLATE_TOKENS, max_output_tokens(endpoint("http://x"), REQUEST)


class Server:
    """Says the same to everyone, and counts whom it was asked by."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.asked = reply, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            writer.write(self.reply.wire)
            await writer.drain()
            if self.reply.fault == "stalls":
                await reader.read()
            writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()


async def asked(server: Server, budget: EpisodeBudget, *, timeout: float = 30.0) -> CallsResult:
    async with server.serving() as url, ExpertClient([endpoint(url, timeout_seconds=timeout)], retry=RETRY) as experts:
        request = ExpertRequest("answer", VIEW, REQUEST)
        return await execute([request], experts=experts, budget=budget, task=TASK, cancelled=lambda calls: None)


def check(reply: Reply, *, server: Server, budget: EpisodeBudget, result: CallsResult) -> Call:
    (call,) = result.calls
    meter = call.meter
    match call.status:
        case "ok":
            assert result.end is None
            assert call.reason is None
        case "refused":
            assert result.end is None
            assert call.reason is not None
        case "unavailable":
            assert result.end is not None
            wrong = call.reason is Reason.MISCONFIGURED
            assert result.end.ending is (Ending.EXPERT_MISCONFIGURED if wrong else Ending.EXPERT_UNAVAILABLE)
            assert (meter.nominal_usd, meter.actual_usd) == (0, meter.wasted_usd)
        case other:
            raise AssertionError(f"an outcome that is none: {other}")
    charge = could_charge(reply)
    tokens_in = IN if charge.tokens_in is None else charge.tokens_in
    tokens_out = OUT if charge.tokens_out is None else charge.tokens_out
    least = server.asked * POOL_PRICE.of(tokens_in=tokens_in, tokens_out=tokens_out)
    most = server.asked * POOL_PRICE.of(tokens_in=max(IN, meter.tokens_in, tokens_in), tokens_out=10**8)
    assert least <= meter.actual_usd <= most, (reply, call)
    assert 1 <= server.asked <= RETRY.attempts
    assert budget.reserved_usd == 0
    assert budget.actual_usd == meter.actual_usd
    assert meter.wasted_usd <= 2 * POOL_PRICE.of(tokens_in=IN, tokens_out=OUT) or meter.wasted_usd <= most
    assert 0 <= meter.tokens_cached <= meter.tokens_in
    assert call.status != "ok" or (call.meter.tokens_out > 0 and call.meter.tokens_in > 0), "no expert is free"
    assert Call.model_validate_json(call.model_dump_json()) == call, "it can be sent and stored"
    assert call.status == "ok" or (call.observation.isprintable() and len(call.observation) < 500)
    return call


def campaign(examples: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with asyncio.Runner() as runner:

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(replies)
        def one(reply: Reply) -> None:
            server, budget = Server(reply), EpisodeBudget(limits=LIMITS, allowance_usd=ALLOWANCE)
            result = runner.run(asked(server, budget))
            call = check(reply, server=server, budget=budget, result=result)
            outcomes[call.status if call.reason is None else f"{call.status}: {call.reason}"] += 1

        one()
    return outcomes


def report(outcomes: Counter[str]) -> None:
    print(f"\n{outcomes.total()} hostile replies:", ", ".join(f"{n} {what}" for what, n in outcomes.most_common()))


def test_hostile_replies() -> None:
    outcomes = campaign(1_000)
    report(outcomes)
    assert outcomes.total() >= 1_000
    assert {"ok", "refused: bad_request", "unavailable: misconfigured", "unavailable: garbage"} <= outcomes.keys()


@pytest.mark.long
def test_ten_thousand_hostile_replies() -> None:
    outcomes = campaign(10_000)
    report(outcomes)
    assert outcomes.total() >= 10_000


@pytest.mark.parametrize("status", [200, 400, 429, 500])
async def test_a_reply_that_stalls_ends_at_its_time_out(status: int) -> None:
    reply = Reply("stalls", status, {"error": {"message": "x"}}, None, "plain")
    server, budget = Server(reply), EpisodeBudget(limits=LIMITS, allowance_usd=ALLOWANCE)
    async with asyncio.timeout(20):
        result = await asked(server, budget, timeout=0.1)
    call = check(reply, server=server, budget=budget, result=result)
    assert call.status == "unavailable"
