"""Servers that misbehave on purpose, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from aiohttp import web

from toolorchestra.api.skill_table import SkillTable
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.client import ExpertClient, RetryPolicy
from toolorchestra.experts.endpoint import Endpoint, Limits
from toolorchestra.tasks.task import GraderSpec, Task
from toolorchestra.tools.view import Price

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

POOL_PRICE = Price(input_usd_per_million_tokens=Decimal(1), output_usd_per_million_tokens=Decimal(2))
BOOK_PRICE = Price(input_usd_per_million_tokens=Decimal(10), output_usd_per_million_tokens=Decimal(20))
REQUEST = ChatRequest(messages=({"role": "user", "content": "2 + 2?"},))
TASK = Task(
    id="sums/1",
    instruction="2 + 2?",
    topic="sums",
    source="s",
    grader=GraderSpec(type="ExactMatch", data={"answer": "4"}),
)
FAST = RetryPolicy(attempts=4, base_seconds=0.001, cap_seconds=0.002)


def completion(content: Any = "4", **fields: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 40}}
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"model": "m", "choices": [choice], "usage": usage} | fields


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """`handler` at any path of a free port; gives the base URL, `/v1` included."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(reply: bytes) -> AsyncIterator[str]:
    """A socket that reads a little, writes `reply` and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        await server.wait_closed()


def endpoint(url: str, **fields: Any) -> Endpoint:
    return Endpoint(**{"pool": "oak", "url": url, "model": "m", "price": POOL_PRICE} | fields)


def client(url: str, *, retry: RetryPolicy = FAST, limits: Limits | None = None, **fields: Any) -> ExpertClient:
    return ExpertClient([endpoint(url, limits=limits or Limits(), **fields)], retry=retry)


def skill_table(*models: str, accuracy: str = "0.5", seed: int = 1, **fields: Any) -> SkillTable:
    """Experts that are alike: one accuracy on every topic, unless `fields` (as in YAML) say otherwise."""
    expert = {
        "default": {"accuracy": accuracy},
        "tokensOut": 100,
        "latencyMilliseconds": {"p50": 1000, "p99": 4000},
    } | fields
    spec = {"seed": seed, "experts": [{"name": model} | expert for model in models]}
    return SkillTable.model_validate({"apiVersion": "toolorchestra.dev/v1alpha1", "kind": "SkillTable", "spec": spec})


class Script:
    """A handler that gives its replies in turn, the last one for ever; remembers what it was asked."""

    def __init__(self, *replies: web.Response | dict[str, Any] | int) -> None:
        self.replies = list(replies)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked = asyncio.Event()
        """It has been called."""

    @property
    def calls(self) -> int:
        return len(self.bodies)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        self.asked.set()
        reply = self.replies[min(self.calls, len(self.replies)) - 1]
        if isinstance(reply, int):
            return web.json_response({"error": {"message": f"trouble {reply}"}}, status=reply)
        if isinstance(reply, dict):
            return web.json_response(reply)
        # A response object serves once; a script may repeat it.
        return web.Response(body=reply.body, status=reply.status, headers=reply.headers)
