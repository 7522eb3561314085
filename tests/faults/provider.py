"""The experts' provider: an OpenAI-compatible server with faults, and its own bill of what it could charge.

The bill is the oracle of a run's money: it is written when the model has worked, whatever becomes of the reply, and it
never passes through our code. Tokens are counted as clients estimate them, so that a reply without usage is comparable.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web

from faults.plan import ReplyRates
from faults.world import POOLS
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.metering import estimated_tokens

_SUM = re.compile(r"add (\d+) and (\d+)")
_MARK = re.compile(r"#(\w+)")
_MILLION = Decimal(1_000_000)
HANG_SECONDS = 6.0


@dataclass(frozen=True)
class Charge:
    """One call that the model worked on. `mark` is the policy's own word in the question, where it had one to say."""

    pool: str
    mark: str
    usd: Decimal
    how: str


@dataclass
class Bill:
    """What was charged so far, and how high it stood when the cap was lower than that."""

    cap: Decimal
    charges: list[Charge] = field(default_factory=list[Charge])
    total: Decimal = Decimal(0)
    over: list[str] = field(default_factory=list[str])

    def add(self, charge: Charge) -> None:
        self.charges.append(charge)
        self.total += charge.usd
        if self.total > self.cap and not self.over:
            self.over.append(f"${self.total} charged, the cap is ${self.cap}")


class Provider:
    """Serves `/POOL/v1/chat/completions` and `/POOL/v1/models`."""

    def __init__(self, *, rates: ReplyRates, rng: random.Random, cap: Decimal) -> None:
        self._rates, self._rng = rates, rng
        self.bill = Bill(cap)
        self.replies: Counter[str] = Counter()
        self.out: set[str] = set()
        """Pools that are down."""
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.add_routes(
            [web.post("/{pool}/v1/chat/completions", self._chat), web.get("/{pool}/v1/models", self._models)]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def outage(self, pool: str, *, seconds: float) -> None:
        """The pool is down for a while."""
        self.out.add(pool)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.out.discard(pool)

    def _draw(self) -> str:
        draw = self._rng.random()
        for kind, share in vars(self._rates).items():
            draw -= share
            if draw < 0:
                return kind
        return "ok"

    async def _models(self, request: web.Request) -> web.Response:
        if request.match_info["pool"] in self.out:
            return web.json_response({"error": {"message": "down"}}, status=503)
        return web.json_response({"object": "list", "data": [{"id": request.match_info["pool"], "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        pool, body = request.match_info["pool"], await request.json()
        kind = "busy" if pool in self.out else self._draw()
        self.replies[kind] += 1
        match kind:
            case "throttled":
                return _error(429, "slow down", headers={"Retry-After": "0.05"})
            case "busy":
                return _error(503, "overloaded")
            case "refused":
                return _error(400, "this content is not allowed", code="content_policy_violation")
        found = _MARK.search(str(body["messages"]))
        mark = found[1] if found else ""
        if kind == "broken" and self._rng.random() < 0.5:
            self.bill.add(Charge(pool, mark, Decimal(0), "unpaid"))  # which nobody but the provider can know
            return _error(self._rng.choice((500, 502)), "it broke before the model")
        completion, usd = self._work(pool, body, kind=kind)
        self.bill.add(Charge(pool, mark, usd, kind))
        return await self._say(request, completion, kind=kind)

    async def _say(self, request: web.Request, completion: dict[str, Any], *, kind: str) -> web.StreamResponse:
        match kind:
            case "broken":
                return _error(self._rng.choice((500, 502)), "it broke after the model")
            case "gateway":
                return _error(self._rng.choice((504, 524)), "the gateway did not wait")
            case "dropped":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "cut":
                response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "4000"})
                await response.prepare(request)
                await response.write(json.dumps(completion).encode()[:40])
                assert request.transport is not None
                request.transport.abort()
                return response
            case "hung":
                await asyncio.sleep(HANG_SECONDS)
            case _:
                await asyncio.sleep(self._rng.expovariate(1 / 0.004))
        return web.json_response(completion)

    def _work(self, pool: str, body: dict[str, Any], *, kind: str) -> tuple[dict[str, Any], Decimal]:
        """The completion, and what the provider charges for it."""
        text = "" if kind == "empty" else self._text(str(body["messages"]))
        limit = int(body["max_tokens"])
        into = estimated_tokens(ChatRequest(messages=tuple(body["messages"])).size_bytes)
        out = min(limit, estimated_tokens(len(text.encode())))
        hidden = min(limit - out, 30) if kind == "reasoning" else 0
        usage: dict[str, Any] | None = {
            "prompt_tokens": into,
            "completion_tokens": out,
            "total_tokens": into + out + hidden,
        }
        if kind == "no_usage":
            zero = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
            usage = self._rng.choice((None, zero))
        price_in, price_out = (Decimal(price) for price in POOLS[pool])
        usd = (into * price_in + (out + hidden) * price_out) / _MILLION
        finish = "error" if kind == "error" else "stop"
        completion: dict[str, Any] = {
            "id": f"c{len(self.bill.charges)}",
            "object": "chat.completion",
            "created": 0,
            "model": pool,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        }
        return completion | ({"usage": usage} if usage is not None else {}), usd

    def _text(self, asked: str) -> str:
        found = _SUM.search(asked)
        if found is None or self._rng.random() < 0.3:
            return f"I think it is \\boxed{{{self._rng.randint(1, 9)}}}"
        return f"The sum is \\boxed{{{int(found[1]) + int(found[2])}}}"


def _error(
    status: int, message: str, *, code: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    error = {"error": {"message": message, "type": code or "error", "code": code}}
    return web.json_response(error, status=status, headers=headers)
