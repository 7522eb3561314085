"""A week of a shared cluster in minutes: real API server, etcd, controllers, NATS and operator; a scripted kubelet.

Five tenants make 200 trainings and 50 pools that complete, fail, are suspended, deleted, made again under one name, are
wrong, meet objects of others and name dead NATS servers, while operator, API server and NATS are killed. Then what a
change takes until it is applied is measured while 50 trainings fail. Ends with 1 where anything is left that should not
be, anything foreign was touched (by the audit log), a status was wrong, or a tenant waited for another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from support.cluster.training_life import GROUP, connected
from testbed.api import Refused
from testbed.audit import AuditLog
from testbed.cluster import Cluster, running
from toolorchestra.local.nats_server import NatsServer
from week.kubelet import Kubelet
from week.latency import BAR_SECONDS, Latency
from week.lives import Lives
from week.stories import tenants, week
from week.weather import Operators, Weather
from week.world import OPERATOR, RESOURCES, World, dead_servers

ROOT = Path(__file__).resolve().parents[2]
TENANTS = 5
LEFT_SECONDS = 120.0
"""For the garbage collector."""


def touched(log: AuditLog, world: World) -> list[str]:
    """Writes of the operator to what is foreign that the API server let through."""
    names = {(RESOURCES[one.kind], one.space, one.name) for one in world.foreign}
    return [
        str(write)
        for write in log.writes(user_agent=OPERATOR)
        if write.code < 300
        and not write.dry_run
        and (write.resource.partition("/")[0].partition(".")[0], write.namespace, write.name) in names
    ]


async def remains(world: World, spaces: list[str], bus: Client) -> list[str]:
    """What is there in the end and should not be, after the garbage collector has had its time."""
    deadline = time.monotonic() + LEFT_SECONDS
    while True:
        found = [line for space in spaces for line in await asyncio.to_thread(world.left, space)]
        found += [f"stream {info.config.name}" for info in await bus.jetstream(timeout=60).streams_info()]
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(1.0)


async def play(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The week."""
    spaces = tenants(TENANTS)
    plan = week(seed=options.seed, trainings=options.trainings, spaces=spaces)
    async with AsyncExitStack() as stack:
        cluster: Cluster = stack.enter_context(running(folder / "control-plane", controllers=True))
        server = await stack.enter_async_context(NatsServer(directory=folder / "nats", sync_always=False))
        bus = await stack.enter_async_context(connected(server.url))
        dead = stack.enter_context(dead_servers())
        world = World(cluster.api)
        await asyncio.to_thread(world.prepare, spaces, pools=options.pools)
        kubelet = Kubelet(cluster.api, spaces)
        lives = Lives(cluster.api, bus, kubelet, world, dead)
        operators = Operators(cluster, folder, server.url, stack)
        await operators.start()
        weather = Weather(cluster, operators, server, random.Random(options.seed), storms=options.storms)
        played = asyncio.create_task(kubelet.serve())
        began = time.monotonic()
        told = asyncio.create_task(_progress(lives, len(plan)))
        gate = asyncio.Semaphore(options.at_a_time)

        async def one(life: Any) -> None:
            async with gate:
                await lives.live(life)

        storms = asyncio.create_task(weather.blow(ended=lambda: lives.ended, lives=len(plan)))
        await asyncio.gather(*(one(life) for life in plan))
        await storms
        told.cancel()
        seconds = time.monotonic() - began
        print(f"week: {len(plan)} lives in {seconds:.0f} s, {dict(weather.counts)} killed", file=sys.stderr, flush=True)
        latency = await Latency(cluster, bus, kubelet, spaces, dead).measure(
            failing=options.failing, changes=options.changes
        )
        await asyncio.to_thread(_remove_pools, world, spaces)
        left = await remains(world, spaces, bus)
        played.cancel()
        with suppress(asyncio.CancelledError):
            await played
        created = Counter(
            write.resource
            for write in cluster.audit_log.writes(user_agent=OPERATOR)
            if write.code == 201 and not write.dry_run
        )
        return {
            "trainings": lives.made,
            "pools": options.pools,
            "tenants": TENANTS,
            "seed": options.seed,
            "seconds": round(seconds, 1),
            "stories": dict(Counter(life.story for life in plan)),
            "killed": dict(weather.counts),
            "objects": sum(created.values()),
            "made": dict(created),
            "foreign": len(world.foreign),
            "touched": [*touched(cluster.audit_log, world), *await asyncio.to_thread(world.changed)],
            "wrong": lives.wrong,
            "left": left,
            **latency,
        }


def _remove_pools(world: World, spaces: list[str]) -> None:
    for space in spaces:
        path = f"{GROUP}/namespaces/{space}/expertpools"
        for pool in world.api.get(path)["items"]:
            with suppress(Refused):
                world.api.delete(f"{path}/{pool['metadata']['name']}")


async def _progress(lives: Lives, number: int) -> None:
    told = 0
    while True:
        await asyncio.sleep(15)
        print(f"week: {lives.ended} of {number} lives, {len(lives.wrong)} wrong", file=sys.stderr, flush=True)
        for line in lives.wrong[told:]:
            print(f"week: wrong: {line}", file=sys.stderr, flush=True)
        told = len(lives.wrong)


def problems(found: dict[str, Any]) -> list[str]:
    """A line each; empty: it was a good week."""
    lines = [*found["wrong"], *(f"left: {one}" for one in found["left"])]
    lines += [f"touched: {one}" for one in found["touched"]]
    if found["p95_seconds"] > BAR_SECONDS:
        lines.append(f"a change took {found['p95_seconds']:.2f} s at p95 while others failed (bar {BAR_SECONDS:g} s)")
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trainings", type=int, default=200)
    options.add_argument("--pools", type=int, default=50)
    options.add_argument("--at-a-time", type=int, default=24, help="lives that overlap")
    options.add_argument("--storms", type=int, default=16, help="how often something is killed")
    options.add_argument("--failing", type=int, default=50, help="trainings that fail while changes are timed")
    options.add_argument("--changes", type=int, default=60, help="changes that are timed")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--folder", type=Path, default=ROOT / ".bench" / "week")
    arguments = options.parse_args()
    folder: Path = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = asyncio.run(play(arguments, folder))
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = problems(found)
    for line in lines:
        print(line)
    print(f"results: {folder / 'results.json'}; what the operator said: {folder / 'operator.log'}")
    print(
        f"cluster-week: {found['objects']} objects, {len(found['touched'])} foreign touched, "
        f"p95 {found['p95_seconds']:.2f} s"
    )
    raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
