"""The pages that the kubelet asks for: `/healthz` fails where a restart may heal, `/readyz` also where none does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus

from aiohttp import web

from toolorchestra_operator.runtime.http_server import Page

Words = Callable[[], Sequence[str]]


def health_pages(*, complaints: Words, degraded: Words) -> dict[str, Page]:
    """`complaints`: what is stuck; `degraded`: what somebody has to change, or what comes back by itself."""

    async def alive() -> web.Response:
        return _page("alive", complaints())

    async def ready() -> web.Response:
        return _page("ready", (*complaints(), *degraded()))

    return {"/healthz": alive, "/readyz": ready}


def _page(what: str, wrong: Sequence[str]) -> web.Response:
    said = {what: "; ".join(wrong) or "yes"}
    status = HTTPStatus.INTERNAL_SERVER_ERROR if wrong else HTTPStatus.OK
    return web.json_response(said, status=status)
