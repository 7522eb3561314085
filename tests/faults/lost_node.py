"""An HTTP server on a node that is lost: its connections end in the middle, and nobody answers new ones.

The server goes on listening. One of asyncio that is closed with a connection just accepted keeps that one open and
never answers on it (Python 3.11, dispatch 109564), which no lost node does: its caller would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler


def unless(gone: Callable[[], bool]) -> Any:
    """A middleware: while `gone()`, who calls finds the connection cut, and nothing is done for the call."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not gone():
            return await handler(request)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    return answer


def cut(runner: web.AppRunner | None) -> None:
    """Requests under way end in the middle."""
    server = runner.server if runner is not None else None
    for connection in list(server.connections) if server is not None else []:
        if connection.transport is not None:
            connection.transport.abort()
