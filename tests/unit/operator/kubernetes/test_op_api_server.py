"""What a struggling API server, a proxy or a wire does, as types: against a server that plays it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from toolorchestra.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    NotServed,
    Terminating,
    Throttled,
    Unavailable,
    failure,
)
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.manifest import Ref

POD = Ref("v1", "Pod", "team", "p")
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "team"}}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Played:
    """A server whose every answer the test writes."""

    def __init__(self) -> None:
        self.answer: Answer = self._nothing
        self.seen: list[str] = []
        self.queries: list[dict[str, str]] = []
        self.counted: list[tuple[str, str, str]] = []
        self.url = ""

    async def _nothing(self, _: web.Request) -> web.Response:
        return web.json_response({"metadata": {}})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path_qs}")
        self.queries.append(dict(request.query))
        return await self.answer(request)

    def says(self, code: int, body: Any = None, **headers: str) -> None:
        async def answer(_: web.Request) -> web.Response:
            if isinstance(body, str):
                return web.Response(status=code, text=body, headers=headers)
            return web.json_response(body or {"kind": "Status", "message": "no"}, status=code, headers=headers)

        self.answer = answer


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    world = Played()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", world.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    world.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield world
    await runner.cleanup()


@pytest.fixture
async def api(played: Played) -> AsyncIterator[ApiServer]:
    def count(verb: str, kind: str, code: str) -> None:
        played.counted.append((verb, kind, code))

    async with ApiServer(Configuration(host=played.url), timeout=30, count=count) as server:
        yield server


def status(code: int, reason: str = "", *, message: str = "no", **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "message": message, "code": code, "reason": reason, "details": details}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status(404), NotFound),
        ("404 page not found", NotServed),
        (status(409, "Conflict"), Conflict),
        (status(409, "AlreadyExists"), AlreadyExists),
        (status(403, "Forbidden"), Forbidden),
        (status(401, "Unauthorized"), Forbidden),
        (status(403, "Forbidden", causes=[{"reason": "NamespaceTerminating"}]), Terminating),
        (status(422, "Invalid", causes=[{"field": "spec.replicas"}]), Invalid),
        (status(400, "BadRequest"), Invalid),
        (status(410, "Expired"), Expired),
        (status(429, "TooManyRequests"), Throttled),
        (status(500, "InternalError"), Unavailable),
        (status(500, message="failed to create typed patch object (…): .spec.ports: duplicate entries"), Invalid),
        (status(422, "Invalid", causes=[{"field": "metadata.uid"}]), Conflict),
        ("upstream connect error", Unavailable),
        (status(405, "MethodNotAllowed"), ApiError),
    ],
)
def test_each_refusal_has_a_type(answer: dict[str, Any] | str, error: type[ApiError]) -> None:
    code = answer["code"] if isinstance(answer, dict) else 404 if "404" in answer else 503
    found = failure(code, answer, verb="apply", resource="Pod team/p")
    assert type(found) is error
    assert "apply Pod team/p" in str(found)
    assert found.code == code


def test_an_invalid_object_names_its_field() -> None:
    answer = status(422, "Invalid", causes=[{"field": "spec.replicas", "message": "must be >= 0"}])
    found = failure(422, answer, verb="apply", resource="x")
    assert isinstance(found, Invalid)
    assert found.field == "spec.replicas"


async def test_throttling_says_for_how_long(played: Played, api: ApiServer) -> None:
    played.says(429, None, **{"Retry-After": "7"})
    with pytest.raises(Throttled) as told:
        await api.get(POD)
    assert told.value.retry_after == 7.0
    assert told.value.transient
    assert played.counted == [("get", "Pod", "429")]


async def test_no_answer_in_time(played: Played) -> None:
    never = asyncio.Event()
    counted = []

    async def hang(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    played.answer = hang
    server = ApiServer(Configuration(host=played.url), timeout=0.5, count=lambda *request: counted.append(request))
    async with server as api:
        with pytest.raises(Unavailable, match=r"no answer in 0\.5 s"):
            await api.get(POD)
    assert counted == [("get", "Pod", "timeout")]
    never.set()


async def test_a_connection_that_breaks(played: Played, api: ApiServer) -> None:
    async def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    played.answer = drop
    with pytest.raises(Unavailable):
        await api.apply(CONFIG)
    assert played.counted == [("apply", "ConfigMap", "unreachable")]


async def test_nobody_listens() -> None:
    async with ApiServer(Configuration(host="http://127.0.0.1:1"), timeout=2) as api:
        with pytest.raises(Unavailable):
            await api.get(POD)


async def test_a_kind_that_is_not_served_has_no_objects(played: Played, api: ApiServer) -> None:
    played.says(404, "404 page not found")
    assert await api.get(Ref("ray.io/v1", "RayJob", "team", "r")) is None
    assert await api.list("ray.io/v1", "RayJob") == []
    assert not await api.served("ray.io/v1", "RayJob")
    assert await api.get(Ref("new.io/v1", "Thing", "team", "r")) is None
    with pytest.raises(NotServed):
        await api.apply({**CONFIG, "apiVersion": "new.io/v1", "kind": "Thing"})
    assert sum("/apis/new.io/v1" in line for line in played.seen) == 1


async def test_a_list_is_read_in_pages(played: Played, api: ApiServer) -> None:
    async def page(request: web.Request) -> web.Response:
        first = "continue" not in request.query
        metadata = {"continue": "tok/en="} if first else {}
        return web.json_response({"metadata": metadata, "items": [{"metadata": {"name": "a" if first else "b"}}]})

    played.answer = page
    found = await api.list("v1", "Pod", namespace="team", labels="a=b,c", chunk=1)
    assert [(one["kind"], one["metadata"]["name"]) for one in found] == [("Pod", "a"), ("Pod", "b")]
    selected = {"labelSelector": "a=b,c", "limit": "1"}
    assert played.queries == [selected, {**selected, "continue": "tok/en="}]


async def test_a_page_that_is_too_old(played: Played, api: ApiServer) -> None:
    played.says(410, status(410, "Expired"))
    with pytest.raises(Expired):
        await api.list("v1", "Pod")


async def test_schemas_are_fetched_once_until_their_hash_changes(played: Played) -> None:
    now, url = 0.0, "/openapi/v3/api/v1?hash=AB%3D"
    gvk = [{"group": "", "version": "v1", "kind": "ConfigMap"}]

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/openapi/v3":
            return web.json_response({"paths": {"api/v1": {"serverRelativeURL": url}}})
        component = {"type": "object", "x-kubernetes-group-version-kind": gvk}
        return web.json_response({"components": {"schemas": {"ConfigMap": component}}})

    def documents() -> int:
        return sum("hash" in line for line in played.seen)

    played.answer = answer
    async with ApiServer(Configuration(host=played.url), clock=lambda: now) as api:
        one = await api.openapi()
        assert ("v1", "ConfigMap") in one
        assert ("apps/v1", "Deployment") not in one
        assert await api.openapi() is one
        assert len(played.seen) == 2
        now += 61
        assert await api.openapi() is one
        assert documents() == 1
        assert played.queries[1] == {"hash": "AB="}
        now, url = now + 61, "/openapi/v3/api/v1?hash=CD"
        assert await api.openapi() is not one
        assert documents() == 2


async def test_a_finalizer_is_tried_again_where_the_object_changed(played: Played, api: ApiServer) -> None:
    patches = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal patches
        if request.method == "GET":
            return web.json_response({"metadata": {"uid": "u", "resourceVersion": str(patches), "finalizers": ["x"]}})
        body = await request.json()
        assert body["metadata"]["resourceVersion"] == str(patches)
        patches += 1
        return web.json_response(status(409, "Conflict"), status=409) if patches < 3 else web.json_response(body)

    played.answer = answer
    ref = Ref("toolorchestra.dev/v1alpha1", "ExpertPool", "team", "p")
    found = await api.set_finalizer(ref, True)
    assert found is not None
    assert found["metadata"]["finalizers"] == ["x", "toolorchestra.dev/streams"]
    assert patches == 3
    assert await api.set_finalizer(ref, True, uid="another") is None
