"""How long a change takes until it is applied while many trainings of another tenant fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nats.aio.client import Client

from support.training_life import Stage
from testbed.api import Refused
from testbed.cluster import Cluster
from week.kubelet import Kubelet
from week.world import OPERATOR, PLURALS, wrong

BAR_SECONDS = 2.0
HEALTHY = 2
"""Trainings of every other tenant that are changed."""
PATIENCE = 120.0
SKIP = {"toolorchestra.dev/skip-stream-removal": "true"}


@dataclass(frozen=True)
class Written:
    """One answered write. `at`: seconds since the epoch."""

    at: float
    resource: str
    namespace: str
    name: str
    agent: str


@dataclass(frozen=True)
class Latency:
    """In a cluster in which nothing is killed any more."""

    cluster: Cluster
    bus: Client
    kubelet: Kubelet
    spaces: list[str]
    dead: list[str]

    async def measure(self, *, failing: int, changes: int) -> dict[str, Any]:
        """`changes` of healthy trainings, one after the other; everything that was made for it is removed."""
        noisy, *quiet = self.spaces
        healthy = [Stage(self.cluster.api, space, self.bus, f"calm-{i}") for space in quiet for i in range(HEALTHY)]
        for stage in healthy:
            await asyncio.to_thread(stage.submit, pools=False)
        for stage in healthy:
            await self._until(lambda stage=stage: self._has_workers(stage))  # type: ignore[misc]
        failed = [Stage(self.cluster.api, noisy, self.bus, f"noise-{i}") for i in range(failing)]
        for number, stage in enumerate(failed):
            await asyncio.to_thread(self._fails, stage, number)
        seconds = [await self._change(healthy[number % len(healthy)], 3 + number) for number in range(changes)]
        for stage in (*healthy, *failed):
            path = stage.path(stage.name)
            await asyncio.to_thread(self.cluster.api.merge, path, {"metadata": {"annotations": SKIP}})
            await asyncio.to_thread(self.cluster.api.delete, path)
        for stage in (*healthy, *failed):
            await self._until(lambda stage=stage: self._is_gone(stage))  # type: ignore[misc]
            with suppress(Refused):
                claim = f"{PLURALS['claim'].format(space=stage.namespace)}/{stage.name}-storage"
                await asyncio.to_thread(self.cluster.api.delete, claim)
        ordered = sorted(seconds)
        p95 = ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]
        return {"p95_seconds": p95, "p50_seconds": ordered[len(ordered) // 2], "change_seconds": seconds}

    def _fails(self, stage: Stage, number: int) -> None:
        """Dead servers of NATS, wrong specs, and heads that end with an error again and again."""
        match number % 3:
            case 0:
                stage.submit(pools=False, messaging={"url": self.dead[number // 3 % len(self.dead)]})
            case 1:
                stage.submit(pools=False, **wrong(number // 3))
            case _:
                for attempt in range(1, 50):
                    self.kubelet.head_ends(stage.namespace, stage.name, attempt, 1, "ValueError: boom")
                stage.submit(pools=False, backoffLimit=40)

    async def _change(self, stage: Stage, workers: int) -> float:
        """Seconds from the answer to a change of a training to the answer to the apply of its workers."""
        since = self.cluster.audit_log.position()
        await asyncio.to_thread(
            self.cluster.api.merge, stage.path(stage.name), {"spec": {"rollout": {"workers": workers}}}
        )
        took: list[float] = []

        def is_applied() -> bool:
            seen = [one for one in self._written(since) if one.namespace == stage.namespace]
            changed = [one.at for one in seen if one.name == stage.name and not one.agent.startswith(OPERATOR)]
            applied = [
                one.at
                for one in seen
                if one.name == f"{stage.name}-workers"
                and one.resource == "deployments"
                and one.agent.startswith(OPERATOR)
            ]
            took[:] = [applied[0] - changed[0]] if changed and applied else []
            return bool(took)

        await self._until(is_applied)
        return took[0]

    def _written(self, since: int) -> Iterator[Written]:
        with self.cluster.audit_log.path.open("rb") as file:
            file.seek(since)
            for line in file.read().split(b"\n")[:-1]:
                one = json.loads(line)
                what = one.get("objectRef", {})
                if not what.get("subresource") and one.get("responseStatus", {}).get("code", 0) < 300:
                    yield Written(
                        at=datetime.fromisoformat(one["stageTimestamp"]).timestamp(),
                        resource=what.get("resource", ""),
                        namespace=what.get("namespace", ""),
                        name=what.get("name", ""),
                        agent=one.get("userAgent", ""),
                    )

    def _has_workers(self, stage: Stage) -> bool:
        try:
            self.cluster.api.get(f"{PLURALS['deployment'].format(space=stage.namespace)}/{stage.name}-workers")
        except Refused:
            return False
        return True

    def _is_gone(self, stage: Stage) -> bool:
        try:
            stage.live()
        except Refused as refused:
            return refused.code == 404
        return False

    async def _until(self, is_so: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not await asyncio.to_thread(is_so):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE:g} s")
            await asyncio.sleep(0.1)
