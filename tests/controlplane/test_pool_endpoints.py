"""Endpoints of ExpertPools on a real API server: hosts and Secrets that are refused, what a pool tells of a reply, and
how an endpoint comes and goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from support.cluster.pool_operator import POOLS, Operator
from support.cluster.pool_world import FOR_POOLS, RUNTIME, endpoint_pool
from testbed.api import Api
from testbed.cluster import Cluster
from toolorchestra_operator.pools.probe import Prober

REACHABLE = [
    *("http://127.0.0.1:{port}/v1", "http://localhost:{port}/v1", "http://[::ffff:127.0.0.1]:{port}/v1"),
    *("http://2130706433:{port}/v1", "{api_server}/v1", "http://169.254.169.254/v1", "http://10.0.0.1:{port}/v1"),
]


@pytest.mark.parametrize("url", REACHABLE)
async def test_a_pool_is_no_probe_of_the_network(
    operator: Operator, api: Api, cluster: Cluster, namespace: str, url: str
) -> None:
    """With the Secret and all: nobody is asked, and the pool says why."""
    operator.runtime = RUNTIME
    operator.prober = Prober(RUNTIME.reach, patience=60, now=lambda: operator.now)
    secret = {"metadata": {"name": "key", "labels": FOR_POOLS}, "stringData": {"key": "hush"}}
    api.create(f"/api/v1/namespaces/{namespace}/secrets", secret)
    async with neighbour() as (port, heard):
        url = url.format(port=port, api_server=cluster.own.url)
        pool = endpoint_pool(url=url, apiKeySecretRef={"name": "key", "key": "key"})
        api.create(POOLS.format(namespace), pool)
        await operator.look()
        said = {one["type"]: (one["status"], one["reason"]) for one in (await operator.live())["status"]["conditions"]}
        assert ("False", "HostNotAllowed") in (said["Accepted"], said["Routable"])
        assert said["Ready"] == ("False", "NotReady")
        assert not heard
    await operator.prober.close()


async def test_a_pool_is_no_reader_of_secrets_nor_of_what_a_server_says(
    operator: Operator, api: Api, namespace: str
) -> None:
    """A Secret goes to nobody unless its label says so; of the reply, and of where it redirects to, nothing is told."""
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    api.create(secrets, {"metadata": {"name": "key"}, "stringData": {"key": "hush"}})
    async with neighbour() as (port, heard), neighbour() as (other, redirected):
        pool = endpoint_pool(url=f"http://127.0.0.1:{port}/v1", apiKeySecretRef={"name": "key", "key": "key"})
        api.create(POOLS.format(namespace), pool)
        await operator.look()
        assert await operator.says("Accepted") == ("False", "SecretNotAllowed")
        assert not heard
        api.merge(f"{secrets}/key", {"metadata": {"labels": FOR_POOLS}})
        for status, words in (
            ("200 OK", "it does not list oak"),
            ("401 No", "HTTP 401"),
            (f"302 Found\r\nLocation: http://127.0.0.1:{other}/v1", "it redirects"),
            ("no status", "its reply is not HTTP"),
        ):
            heard.clear()
            heard.append(status)
            operator.now += timedelta(seconds=600)
            await operator.look()
            (routable,) = (c for c in (await operator.live())["status"]["conditions"] if c["type"] == "Routable")
            assert words in routable["message"]
            assert "private" not in str(await operator.live())
            assert "authorization: bearer hush" in heard[-1].lower()
        assert not redirected
    events = api.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
    assert "private" not in str(events)


@contextlib.asynccontextmanager
async def neighbour() -> AsyncIterator[tuple[int, list[str]]]:
    """Something else that listens on this machine; what it heard. The first line of that, if any, is its status."""
    heard: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = heard[0] if heard else "200 OK"
        heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
        body = '{"data": [{"id": "private"}], "error": {"message": "private"}}'
        first = status if status == "no status" else f"HTTP/1.1 {status}"
        head = f"{first}\r\nContent-Length: {len(body)}\r\nX: private\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heard


TABLE = """
apiVersion: toolorchestra.dev/v1alpha1
kind: SkillTable
spec:
  experts:
  - name: oak
    default: {accuracy: "0.5"}
    latencyMilliseconds: {p50: 10, p99: 40}
"""


@contextlib.asynccontextmanager
async def simulator(folder: Path, port: int) -> AsyncIterator[None]:
    table = folder / "skills.yaml"
    table.write_text(TABLE, encoding="utf-8")
    code = "from toolorchestra.cli.main import main; main()"
    flags = ("simulate", "-f", str(table), "--port", str(port), "--time-scale", "0")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *flags, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), timeout=120)
        assert b"simulated experts: oak" in line
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def test_an_endpoint_comes_goes_and_comes_back(
    operator: Operator, api: Api, namespace: str, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api.create(POOLS.format(namespace), endpoint_pool(url=f"http://127.0.0.1:{port}/v1"))
    async with simulator(tmp_path, port):
        await operator.look()
        assert await operator.says("Routable") == ("True", "ProbeAnswered")
        assert await operator.says("Ready") == ("True", "Ready")
        assert (await operator.live())["status"]["servedModel"] == "oak"
        operator.now += timedelta(seconds=60)
        assert (await operator.look()).empty, "another answer of the same kind is no news"
    operator.now += timedelta(seconds=60)
    await operator.look()
    assert await operator.says("Routable") == ("False", "ProbeFailed")
    assert await operator.says("Ready") == ("False", "NotReady")
    async with simulator(tmp_path, port):
        operator.now += timedelta(seconds=15)
        await operator.look()
        assert await operator.says("Ready") == ("True", "Ready")
        api.merge(f"{POOLS.format(namespace)}/qwen", {"spec": {"endpoint": {"model": "elm"}}})
        await operator.look()
        assert await operator.says("Routable") == ("False", "WrongModelServed")
