"""The kubelet's probes: `/healthz` fails where a restart may help, `/readyz` also where a restart does not help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus

from aiohttp import web

from toolorchestra_operator.runtime.http_server import Page

Words = Callable[[], Sequence[str]]


def health_pages(*, complaints: Words, degraded: Words) -> dict[str, Page]:
    """Return the pages by path. `complaints`: what is stuck; `degraded`: what a person has to change, or what ends by
    itself."""

    async def alive() -> web.Response:
        return _page("alive", complaints())

    async def ready() -> web.Response:
        return _page("ready", (*complaints(), *degraded()))

    return {"/healthz": alive, "/readyz": ready}


def _page(what: str, wrong: Sequence[str]) -> web.Response:
    said = {what: "; ".join(wrong) or "yes"}
    status = HTTPStatus.INTERNAL_SERVER_ERROR if wrong else HTTPStatus.OK
    return web.json_response(said, status=status)
