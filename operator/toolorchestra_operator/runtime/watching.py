"""The configuration of kopf, which only runs the watches and the process, and the health of its connection.

Invariants: kopf writes nothing to the API server (no events, no peering, no finalizers, no patches); it never gives up
because the API server does not answer or refuses; `WatchHealth` is told about every watch, bookmarks included.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import kopf
from yarl import URL

from toolorchestra.kube.kinds import Kind
from toolorchestra_operator.kubernetes.json_text import decoded, shallow
from toolorchestra_operator.kubernetes.transport import Count
from toolorchestra_operator.runtime.liveness import WatchHealth
from toolorchestra_operator.runtime.parents import OURS

_CHUNK: Final = 500
_CONNECT_SECONDS: Final = 10.0
_LOGIN_SECONDS: Final = 5.0
"""Delay between two attempts to log in, which never end: credentials may be rotated while the operator runs."""


class Patience:
    """Delays between the attempts of one request, in seconds, without an end; each iteration starts a new series."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay * random.uniform(0.8, 1.2)
            delay = min(delay * 2, 15.0)


def configure(
    settings: kopf.OperatorSettings, *, children: tuple[Kind, ...], watch_seconds: int, request_seconds: float
) -> None:
    """Configure kopf. Of children, the API server lists and watches only ours (label selector)."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.server_timeout = watch_seconds
    settings.watching.client_timeout = watch_seconds + 10
    settings.watching.connect_timeout = _CONNECT_SECONDS
    settings.watching.chunk_size = _CHUNK
    settings.networking.request_timeout = request_seconds
    settings.networking.connect_timeout = _CONNECT_SECONDS
    settings.networking.error_backoffs = Patience()
    # kopf keeps one task per object for this many seconds after its last event.
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 1.0
    settings.execution.default_backoff = _LOGIN_SECONDS
    settings.process.ultimate_exiting_timeout = 30.0
    for child in children:
        settings.watching.label_selectors[child.group, child.version, child.plural] = OURS


def login(kubeconfig: Path | None, *, watch_health: WatchHealth, count: Count, **kwargs: Any) -> kopf.AiohttpSession:
    """Return our own connection, as the same user as the adapter's. kopf calls it again when a token has expired."""
    if kubeconfig is None:
        log_in = kopf.login_via_client
    else:
        log_in = kopf.login_with_kubeconfig
        os.environ["KUBECONFIG"] = str(kubeconfig)  # it has no parameter for it
    info = log_in(**kwargs)
    if info is None:
        raise kopf.TemporaryError("there are no credentials", delay=_LOGIN_SECONDS)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers={**info.as_http_headers(), "User-Agent": "toolorchestra-operator/watch"},
        trust_env=info.trust_env,
        trace_configs=[_tracing(watch_health, count)],
        response_class=heard_response(watch_health),
    )
    return kopf.AiohttpSession(aiohttp_session=session, server=info.server, default_namespace=info.default_namespace)


def heard_response(watch_health: WatchHealth) -> type[aiohttp.ClientResponse]:
    """Return the response class that reports watch data to `watch_health`, and whose JSON kopf can always read. kopf
    drops bookmarks before a handler could see them."""

    class HeardResponse(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            await super().start(connection)
            if _is_watch(self.url):
                self.content = _Heard(self.content, watch_health, self.url.path)  # type: ignore[assignment]
            return self

        async def json(self, **how: Any) -> Any:
            return await super().json(**{**how, "loads": decoded})

    return HeardResponse


class _Heard:
    """A response's stream that reports received data, and yields it in whole lines without too deep nesting."""

    def __init__(self, stream: aiohttp.StreamReader, watch_health: WatchHealth, watch: str) -> None:
        self._stream, self._watch_health, self._watch = stream, watch_health, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        begun = list[bytes]()  # the line that has no end yet
        async for chunk in self._stream.iter_chunked(size):
            self._watch_health.heard(self._watch)
            *ended, rest = chunk.split(b"\n")
            for part in ended:
                yield shallow(b"".join((*begun, part))) + b"\n"
                begun.clear()
            begun.append(rest)
        if any(begun):
            yield b"".join(begun)


def _tracing(watch_health: WatchHealth, count: Count) -> aiohttp.TraceConfig:
    async def begun(_: Any, __: SimpleNamespace, request: aiohttp.TraceRequestStartParams) -> None:
        if _is_watch(request.url):
            watch_health.began(request.url.path)

    async def answered(_: Any, __: SimpleNamespace, request: aiohttp.TraceRequestEndParams) -> None:
        status = request.response.status
        count(*_words(request.url), str(status))
        verb = _words(request.url)[0]
        if status == HTTPStatus.FORBIDDEN:
            watch_health.refused(request.url.path, f"{verb} is refused: the service account lacks this right")
        elif status >= HTTPStatus.BAD_REQUEST:
            watch_health.failed(request.url.path, f"{verb} is answered with HTTP {status}")
        else:
            watch_health.answered(request.url.path)

    async def failed(_: Any, __: SimpleNamespace, request: aiohttp.TraceRequestExceptionParams) -> None:
        how = "timeout" if isinstance(request.exception, TimeoutError) else "unreachable"
        count(*_words(request.url), how)
        watch_health.failed(request.url.path, f"the API server does not answer ({how})")

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(begun)
    tracing.on_request_end.append(answered)
    tracing.on_request_exception.append(failed)
    return tracing


def _is_watch(url: URL) -> bool:
    return url.query.get("watch") == "true"


def _words(url: URL) -> tuple[str, str]:
    """Return verb and resource of a request of kopf's: a watch, a list, or discovery."""
    if _is_watch(url):
        return "watch", url.name
    if "limit" in url.query:
        return "list", url.name
    return "get", "discovery"
