"""The operator's bar: 200 trainings and 50 pools on a real API server, with the operator's real process.

Measured: from a change to what follows from it (event → applied), in a storm and in steady state; a cold start;
memory; requests by verb and writes in a steady pass. The peer is kubectl: `kubectl apply --server-side` of the very
objects that the operator made, in one process, once to make them (in other namespaces) and once more where nothing
changes.
Prints a table and writes results.json with every single latency. Needs nothing but `make testbed`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from world import OPERATOR, World, events

from support.cluster.operator_process import RunningOperator, operator_process, until
from support.cluster.training_life import GROUP, connected
from testbed.binaries import binaries
from testbed.cluster import Cluster, running
from toolorchestra.local.nats_server import NatsServer

ROOT = Path(__file__).resolve().parents[3]
RESYNC_SECONDS = 60.0
"""More often than by default (300)."""
PATIENCE = 1800.0
BARS = {"steady_p95_seconds": 2.0, "rss_mb": 400.0, "cold_start_seconds": 120.0}
"""The design's, for 1,000 trainings and 200 pools."""


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p95, most; seconds."""
    ordered = sorted(values)
    p95 = ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]
    return {"p50": statistics.median(ordered), "p95": p95, "max": ordered[-1], "count": len(ordered)}


@dataclass
class Bench:
    """One run, step after step; `results` grows."""

    world: World
    cluster: Cluster
    folder: Path
    nats_url: str
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.cluster.audit_log.path

    def operator(self) -> Any:
        flags = ("--nats-url", self.nats_url, "--resync-seconds", str(RESYNC_SECONDS), "--cpu-image", "bench/cluster:1")
        flags += ("--worker-image", "bench/worker:1", "--pool-cpu-image", "bench/cluster:1")
        return operator_process(self.cluster.kubeconfig, self.folder / "operator.log", *flags)

    @property
    def objects(self) -> int:
        return self.world.trainings + self.world.pools

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def storm(self) -> None:
        """All of them applied one right after the other."""
        since, began = self.cluster.audit_log.position(), time.monotonic()
        await asyncio.to_thread(self.world.submit)
        submitted = time.monotonic() - began
        parents = {stage.name for stage in self.world.stages()} | {name for _, name in self.world.served()}

        async def is_made() -> bool:
            made = self.latencies(since)
            return made.keys() == parents and await self.deployments() == len(parents)

        await until(is_made, seconds=PATIENCE)
        made = self.latencies(since)
        applied = [event for event in events(self.log, since=since) if event.agent.startswith(OPERATOR)]
        first = min(e.at for e in events(self.log, since=since) if e.resource in PARENTS and e.verb == "create")
        last = max(e.at for e in applied if e.resource in CHILDREN)
        self.results["storm"] = {
            "submitted_in_seconds": submitted,
            "seconds": last - first,
            "children": sum(1 for event in applied if event.resource in CHILDREN and event.code == 201),
            "event_to_applied_seconds": quantiles(list(made.values())),
            "raw": made,
        }

    def latencies(self, since: int) -> dict[str, float]:
        """From the answer to a parent's creation to the last of its children, by the parent's name."""
        created: dict[str, float] = {}
        last: dict[str, float] = {}
        for event in events(self.log, since=since):
            if event.verb == "create" and event.resource in PARENTS and event.code == 201:
                created[event.name] = event.at
            elif event.agent.startswith(OPERATOR) and event.resource in CHILDREN and event.code in (200, 201):
                last[event.parent] = event.at
        return {name: last[name] - at for name, at in created.items() if name in last}

    async def deployments(self) -> int:
        found = await asyncio.to_thread(self.world.api.get, "/apis/apps/v1/deployments")
        return sum(one["metadata"]["namespace"] in self.world.spaces for one in found["items"])

    async def rests(self, operator: RunningOperator) -> None:
        """Until all trainings run and a whole resync has written nothing."""

        async def all_run() -> bool:
            found = await asyncio.to_thread(self.world.api.get, f"{GROUP}/orchestratortrainings")
            said = [(one.get("status") or {}).get("conditions") or () for one in found["items"]]
            return all(any(c["type"] == "Running" and c["status"] == "True" for c in one) for one in said)

        async def is_quiet() -> bool:
            since = self.cluster.audit_log.position()
            await operator.resyncs(seconds=PATIENCE)
            return not self.cluster.audit_log.writes(since=since, user_agent=OPERATOR)

        await until(all_run, seconds=PATIENCE)
        await until(is_quiet, seconds=PATIENCE)

    async def steady(self, operator: RunningOperator) -> None:
        """Three resyncs in which nothing changes: what that costs."""
        since, before = self.cluster.audit_log.position(), await operator.samples()
        began = time.monotonic()
        await operator.resyncs(2, seconds=PATIENCE)  # and the one under way
        seconds, after = time.monotonic() - began, await operator.samples()
        difference = {key: value - before.get(key, 0.0) for key, value in after.items()}
        requests: dict[str, float] = {}
        for (name, labels), value in difference.items():
            if name == "api_requests_total" and value:
                verb = dict(labels)["verb"]
                requests[verb] = requests.get(verb, 0.0) + value
        looks = sum(value for (name, _), value in difference.items() if name == "reconcile_seconds_count")
        slow = sum(value for (name, _), value in difference.items() if name == "reconcile_seconds_sum")
        self.results["steady"] = {
            "seconds": seconds,
            "writes": [str(one) for one in self.cluster.audit_log.writes(since=since, user_agent=OPERATOR)],
            "requests": requests,
            "looks": looks,
            "mean_look_seconds": slow / looks,
            "cpu_seconds": difference["process_cpu_seconds_total", ()],
        }

    async def edits(self, number: int) -> None:
        """One change after the other, while everything else is looked at as ever."""
        stages, served = self.world.stages(), self.world.served()
        found: list[dict[str, Any]] = []
        for index in range(number):
            since = self.cluster.audit_log.position()
            if index % 5 == 4:
                space, name = served[index // 5 % len(served)]
                path = f"{GROUP}/namespaces/{space}/expertpools/{name}"
                change: dict[str, Any] = {"spec": {"vllm": {"replicas": 2 + index}}}
            else:
                stage = stages[index % len(stages)]
                name, path = stage.name, stage.path(stage.name)
                change = {"spec": {"rollout": {"workers": 3 + index}}}
            await asyncio.to_thread(self.world.api.merge, path, change)
            found.append({"name": name, "seconds": await self.applied(name, since)})
        self.results["edits"] = {
            "event_to_applied_seconds": quantiles([one["seconds"] for one in found]),
            "raw": found,
        }

    async def applied(self, name: str, since: int) -> float:
        """Seconds from a change of the parent to the apply of its Deployment."""
        took = 0.0

        async def is_applied() -> bool:
            nonlocal took
            seen = list(events(self.log, since=since))
            changed = [e.at for e in seen if e.name == name and not e.agent.startswith(OPERATOR)]
            done = [
                e.at for e in seen if e.parent == name and e.resource == "deployments" and e.agent.startswith(OPERATOR)
            ]
            took = done[0] - changed[0] if changed and done else 0.0
            return bool(done)

        await until(is_applied, seconds=120)
        return took

    async def cold_start(self) -> None:
        """A fresh process, until it has looked at everything; it has nothing to write."""
        since, began = self.cluster.audit_log.position(), time.monotonic()
        async with self.operator() as operator:

            async def all_seen() -> bool:
                looks = await operator.sample("reconcile_seconds_count")
                return looks >= self.objects and not await operator.sample("queue_depth")

            await until(all_seen, seconds=PATIENCE)
            self.results["cold_start"] = {
                "seconds": time.monotonic() - began,
                "looks": await operator.sample("reconcile_seconds_count"),
                "writes": [str(one) for one in self.cluster.audit_log.writes(since=since, user_agent=OPERATOR)],
                "rss_mb": await operator.sample("process_resident_memory_bytes") / 1e6,
            }
            await operator.ends(signal.SIGTERM)

    # ── the peer ───────────────────────────────────────────────────────────────────────────────────────────────────

    def kubectl(self) -> None:
        """The same objects in namespaces of its own: made, and applied once more."""
        program = binaries(["kubectl"])["kubectl"]
        children = self.world.children()
        for space in self.world.spaces:
            self.world.api.create("/api/v1/namespaces", {"metadata": {"name": f"kubectl-{space}"}})
        for one in children:
            one["metadata"]["namespace"] = f"kubectl-{one['metadata']['namespace']}"
        file = self.folder / "children.json"
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": children}))
        command = [str(program), "--kubeconfig", str(self.cluster.kubeconfig), "apply", "--server-side"]
        command += ["--field-manager", "bench", "-f", str(file)]
        found: dict[str, Any] = {"objects": len(children)}
        environment = {**os.environ, "HOME": str(self.folder)}  # for its cache of what is served
        for what in ("first", "again"):
            before, began = _children_cpu(), time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                raise SystemExit(f"kubectl failed:\n{done.stderr[-3000:]}")
            found[f"{what}_seconds"] = time.monotonic() - began
            found[f"{what}_cpu_seconds"] = _children_cpu() - before
        self.results["kubectl"] = found


PARENTS = ("orchestratortrainings", "expertpools")
CHILDREN = (
    *("secrets", "persistentvolumeclaims", "configmaps", "services", "jobs", "deployments"),
    *("networkpolicies", "poddisruptionbudgets"),
)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak_mb(pid: int) -> float:
    """The most memory that a process had at once (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything, in order."""
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(running(folder / "control-plane"))
        server = await stack.enter_async_context(NatsServer(directory=folder / "nats", sync_always=False))
        bus = await stack.enter_async_context(connected(server.url))
        world = World(cluster.api, bus, options.trainings, options.pools, options.namespaces)
        bench = Bench(world, cluster, folder, server.url)
        world.prepare()
        async with bench.operator() as operator:
            await asyncio.wait_for(_is_up(operator), 120)
            for name, step in (
                ("storm", bench.storm()),
                ("come up", world.comes_up()),
                ("rest", bench.rests(operator)),
                ("steady", bench.steady(operator)),
                ("edits", bench.edits(options.edits)),
            ):
                began = time.monotonic()
                await step
                print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            bench.results["peak_rss_mb"] = _peak_mb(operator.process.pid)
            bench.results["cpu_seconds"] = await operator.sample("process_cpu_seconds_total")
            await bench.rests(operator)
            await operator.ends(signal.SIGKILL)
        await bench.cold_start()
        await asyncio.to_thread(bench.kubectl)
        return bench.results


async def _is_up(operator: RunningOperator) -> None:
    async def has_looked() -> bool:
        return await operator.sample("reconcile_seconds_count") > 0

    await until(has_looked, seconds=120)


def table(results: dict[str, Any]) -> str:
    """What people read."""
    storm, steady, edits = results["storm"], results["steady"], results["edits"]
    cold, peer = results["cold_start"], results["kubectl"]

    def spread(found: dict[str, float]) -> str:
        return f"p50 {found['p50']:.2f} s, p95 {found['p95']:.2f} s, most {found['max']:.2f} s"

    changes = edits["event_to_applied_seconds"]
    made = f"{peer['objects']} objects in {peer['first_seconds']:.1f} s; once more {peer['again_seconds']:.1f} s"
    requests = ", ".join(f"{verb} {count:.0f}" for verb, count in sorted(steady["requests"].items()))
    cores = steady["cpu_seconds"] / steady["seconds"]
    rows = [
        ("event → applied, steady", f"{spread(changes)} ({changes['count']} changes; bar: p95 2 s)"),
        ("event → applied, all at once", spread(storm["event_to_applied_seconds"])),
        ("all made", f"{storm['children']} objects in {storm['seconds']:.1f} s"),
        ("`kubectl apply --server-side`", made),
        ("operator : kubectl, all made", f"{results['ratio']['made']:.2f} × the time"),
        ("cold start", f"{cold['seconds']:.1f} s, {len(cold['writes'])} writes (bar: 120 s)"),
        ("memory", f"{results['peak_rss_mb']:.0f} MB at most (bar: 400 MB)"),
        ("steady", f"{len(steady['writes'])} writes, {steady['looks']:.0f} looks in {steady['seconds']:.0f} s"),
        ("requests in it", requests),
        ("CPU in it", f"{cores:.2f} cores of the operator"),
    ]
    return "\n".join(["| what | measured |", "| --- | --- |", *(f"| {what} | {said} |" for what, said in rows)])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trainings", type=int, default=200)
    options.add_argument("--pools", type=int, default=50)
    options.add_argument("--namespaces", type=int, default=10)
    options.add_argument("--edits", type=int, default=100)
    options.add_argument("--json", type=Path, default=ROOT / ".bench/operator/results.json")
    arguments = options.parse_args()
    folder = ROOT / ".bench/operator"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    folder.mkdir(parents=True)
    results = asyncio.run(measure(arguments, folder))
    results |= {
        "trainings": arguments.trainings,
        "pools": arguments.pools,
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "ratio": {"made": results["storm"]["seconds"] / results["kubectl"]["first_seconds"]},
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    measured = {
        "steady_p95_seconds": results["edits"]["event_to_applied_seconds"]["p95"],
        "rss_mb": results["peak_rss_mb"],
        "cold_start_seconds": results["cold_start"]["seconds"],
    }
    print(table(results))
    for name, bar in BARS.items():
        print(f"{name} ratio: {measured[name] / bar:.2f} (bar 1, at most: {bar:g})")
    print(f"operator_kubectl ratio: {results['ratio']['made']:.2f} (bar none)")
    missed = [name for name, bar in BARS.items() if measured[name] > bar]
    raise SystemExit(bool(missed or results["steady"]["writes"]))


if __name__ == "__main__":
    main()
