"""How kopf is set up, and that its watches are heard: the real kopf client against a small server."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import kopf
import pytest
import yaml
from aiohttp import web

from toolorchestra_operator.runtime.liveness import WatchHealth
from toolorchestra_operator.runtime.parents import CHILDREN, OURS
from toolorchestra_operator.runtime.watching import Patience, _Heard, configure, login

PATH = "/apis/toolorchestra.dev/v1alpha1/expertpools"


def configured() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    configure(settings, children=CHILDREN, watch_seconds=300, request_seconds=15.0)
    return settings


def test_kopf_watches_and_does_nothing_else() -> None:
    settings = configured()
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.scanning.disabled
    assert (settings.watching.server_timeout, settings.watching.client_timeout) == (300, 310)
    assert settings.watching.chunk_size == 500


def test_only_our_children_are_asked_for_and_all_parents() -> None:
    selectors = configured().watching.label_selectors
    for kind in CHILDREN:
        assert selectors[kind.group, kind.version, kind.plural] == OURS
    assert len(selectors) == len(CHILDREN)


def test_one_request_is_tried_for_ever_with_growing_pauses_up_to_a_bound() -> None:
    patience = Patience()
    pauses = list(itertools.islice(patience, 100))
    assert pauses[0] <= 0.6
    assert all(10.0 < pause <= 18.0 for pause in pauses[10:])
    assert next(iter(patience)) <= 0.6, "each request begins anew"


async def test_kopf_gets_whole_lines_none_of_them_too_deep() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    lines = [b'{"a": 1}', b'{"deep": ' + deep + b"}", b'{"b": 2}', b'{"cut": "of']
    text = b"\n".join(lines)

    class Stream:
        async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
            for at in range(0, len(text), size):
                yield text[at : at + size]

    found = b"".join([chunk async for chunk in _Heard(cast(Any, Stream()), WatchHealth(), PATH).iter_chunked(7)])
    *whole, rest = found.split(b"\n")
    assert [list(json.loads(line)) for line in whole] == [["a"], ["deep"], ["b"]]
    assert rest == lines[-1]


@pytest.fixture
def counted() -> list[tuple[str, str, str]]:
    return []


async def test_a_bookmark_is_heard_and_a_connection_alone_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[tuple[str, str, str]]
) -> None:
    asked, speak, may = asyncio.Event(), asyncio.Event(), True

    async def serve(request: web.Request) -> web.StreamResponse:
        if not may:
            raise web.HTTPForbidden
        answer = web.StreamResponse()
        await answer.prepare(request)
        asked.set()
        await speak.wait()
        await answer.write(b'{"type": "BOOKMARK", "object": {}}\n')
        return answer

    async def groups(_: web.Request) -> web.Response:
        return web.json_response({"groups": []})

    app = web.Application()
    app.router.add_get(PATH, serve)
    app.router.add_get("/apis", groups)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": address}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", "")
    now = 0.0
    watch_health = WatchHealth(clock=lambda: now)
    watch_health.expect([PATH])
    session = login(
        kubeconfig,
        watch_health=watch_health,
        count=lambda *what: counted.append(what),
        settings=SimpleNamespace(networking=SimpleNamespace(trust_env=False)),
        logger=logging.getLogger(),
    )
    client = session.aiohttp_session
    try:
        assert session.server == address
        (await client.get(f"{address}/apis")).close()
        assert not watch_health.all_open.is_set()
        watch = asyncio.create_task(client.get(f"{address}{PATH}", params={"watch": "true"}))
        async with asyncio.timeout(20):
            await asked.wait()
            answer = await watch
            assert watch_health.all_open.is_set(), "it is listed: kopf watches after that"
            now = 400.0
            assert watch_health.silent == {PATH: 400.0}, "that it is answered is no sign of life"
            speak.set()
            chunks = [chunk async for chunk in answer.content.iter_chunked(1024)]
        assert chunks == [b'{"type": "BOOKMARK", "object": {}}\n']
        assert watch_health.silent == {PATH: 0.0}
        may = False
        (await client.get(f"{address}{PATH}", params={"limit": "500"})).close()
        assert watch_health.deaf == {PATH: "list is refused: the service account lacks this right"}
        may = True
        (await client.get(f"{address}{PATH}", params={"limit": "500"})).close()
        assert not watch_health.deaf
    finally:
        await client.close()
        await runner.cleanup()
    with pytest.raises(aiohttp.ClientError):
        async with login(
            kubeconfig,
            watch_health=watch_health,
            count=lambda *what: counted.append(what),
            settings=SimpleNamespace(networking=SimpleNamespace(trust_env=False)),
            logger=logging.getLogger(),
        ).aiohttp_session as gone:
            await gone.get(f"{address}{PATH}", params={"watch": "true"})
    assert watch_health.deaf == {PATH: "the API server does not answer (unreachable)"}
    read = [("get", "discovery", "200"), ("watch", "expertpools", "200")]
    lists = [("list", "expertpools", "403"), ("list", "expertpools", "200")]
    assert counted == [*read, *lists, ("watch", "expertpools", "unreachable")]
