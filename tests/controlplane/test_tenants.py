"""What one namespace's resources do, or wait for, is nothing that another namespace's wait for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from support.cluster.operator_process import operator_process, until
from support.cluster.training_life import GROUP, Stage, connected, documents
from testbed.cluster import Cluster
from testbed.control_plane import free_port
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.discovery import Discovery
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.messaging.servers import NatsServers
from toolorchestra_operator.runtime.assembly import assemble
from toolorchestra_operator.runtime.metrics import Meter
from toolorchestra_operator.runtime.operator_process import OperatorProcess
from toolorchestra_operator.runtime.settings import Settings

DEAD = 8


@asynccontextmanager
async def silent(came: asyncio.Queue[str]) -> AsyncIterator[str]:
    """The URL of a server that lets one in and never says a word."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.put_nowait(url)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield url
    server.close()


async def test_a_training_and_a_pool_wait_for_no_server_of_another_namespace_s(
    cluster: Cluster, server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    """Of two workers one at most is theirs, and it waits for none of their servers either."""
    other, came = f"{namespace}-b"[-60:].strip("-"), asyncio.Queue[str]()
    cluster.api.create("/api/v1/namespaces", {"metadata": {"name": other}})
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer(directory=tmp_path / "nats", sync_always=False))
        bus = await stack.enter_async_context(connected(nats.url))
        urls = [await stack.enter_async_context(silent(came)) for _ in range(DEAD)]
        ports = {"host": "127.0.0.1", "health_port": free_port(), "metrics_port": free_port()}
        settings = Settings.model_validate({"nats_url": nats.url, "workers": 2, **ports})
        discovery = Discovery(lambda: ApiServer.connect(cluster.kubeconfig), interval=300)
        servers = NatsServers(connect_seconds=3600)  # they are pending until the end
        process = OperatorProcess(
            settings=settings,
            api=server,
            machinery=assemble(settings, server, servers=servers),
            served=await discovery.first(),
            discovery=discovery,
            meter=Meter(),
        )
        process.watch_health.all_open.set()  # nobody watches here: keys are put on the queue by hand
        stages = [Stage(cluster.api, namespace, bus, f"dead-{number}") for number in range(DEAD)]
        for number, (stage, url) in enumerate(zip(stages, urls, strict=True)):
            stage.submit(pools=not number, messaging={"url": url})
        healthy = Stage(cluster.api, other, bus)
        healthy.submit()
        await process.start()
        stack.push_async_callback(process.stop)
        process.watch_health.all_open.set()
        for stage in stages:
            process.queue.add(Key("OrchestratorTraining", namespace, stage.name))
        async with asyncio.timeout(120):
            assert {await came.get() for _ in range(DEAD)} == set(urls)
        process.queue.add(Key("ExpertPool", other, "small"))
        process.queue.add(Key("OrchestratorTraining", other, healthy.name))

        async def is_applied() -> bool:
            pool = cluster.api.get(f"{GROUP}/namespaces/{other}/expertpools/small")
            said = healthy.condition("MessagingReady") == ("True", "StreamsReady")
            return said and len(healthy.jobs(1)) == 3 and bool(pool.get("status"))

        await until(is_applied, seconds=120)
        for stage in stages:
            assert stage.condition("MessagingReady") in (("", ""), ("False", "StreamsPending"))
        assert came.empty(), "one connection to each server"


async def test_an_object_that_python_cannot_read_ends_nothing(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """The API server takes ten thousand levels. One pool is there at the start, one comes while it is watched."""
    other, limit = f"{namespace}-b"[-60:].strip("-"), sys.getrecursionlimit()
    cluster.api.create("/api/v1/namespaces", {"metadata": {"name": other}})
    spec: Any = 1
    for _ in range(3000):
        spec = {"a": spec}
    vllm = {"model": {"uri": "hf://a/b"}, "podTemplate": {"spec": spec}}
    _, (theirs, *_) = documents()
    pools = [{**theirs, "metadata": {"name": name}} for name in ("early", "late")]
    for pool in pools:
        pool["spec"] = {key: value for key, value in theirs["spec"].items() if key not in ("endpoint", "simulated")}
        pool["spec"] |= {"type": "VLLM", "vllm": vllm}
    sys.setrecursionlimit(20 * limit)  # of the test, which plays the tenant
    try:
        cluster.api.create(f"{GROUP}/namespaces/{namespace}/expertpools", pools[0])
        async with operator_process(cluster.kubeconfig, tmp_path / "log", "--nats-url", "nats://localhost:1") as it:

            def says(where: str, name: str, kind: str) -> tuple[str, str]:
                status = cluster.api.get(f"{GROUP}/namespaces/{where}/expertpools/{name}").get("status") or {}
                found = {one["type"]: one for one in status.get("conditions") or ()}.get(kind, {})
                return found.get("status", ""), found.get("message", "")

            async def are_told() -> bool:
                refused = [says(namespace, pool["metadata"]["name"], "Accepted") for pool in created]
                return all(said[0] == "False" and "deeper than 100 levels" in said[1] for said in refused)

            created = pools[:1]
            await until(are_told, seconds=60)
            cluster.api.create(f"{GROUP}/namespaces/{namespace}/expertpools", pools[1])
            created = pools
            await until(are_told, seconds=60)
            cluster.api.create(f"{GROUP}/namespaces/{other}/expertpools", theirs)

            async def is_ready() -> bool:
                return says(other, theirs["metadata"]["name"], "Ready")[0] == "True"

            await until(is_ready, seconds=60)
            assert it.process.returncode is None
    finally:
        sys.setrecursionlimit(limit)
