"""How long a change takes until it is applied while many trainings of another tenant fail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client

from support.cluster.operator_process import until
from support.cluster.training_life import Stage
from testbed.cluster import Cluster
from toolorchestra_operator.trainings.reconcile import SKIP_ANNOTATION
from week.kubelet import Kubelet
from week.world import OPERATOR, PLURALS, is_there, remove, wrong

BAR_SECONDS = 2.0
HEALTHY = 2
"""Trainings of every other tenant that are changed."""
PATIENCE = 120.0


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
            workers = f"{PLURALS['deployment'].format(space=stage.namespace)}/{stage.name}-workers"
            await self._is(workers, there=True)
        failed = [Stage(self.cluster.api, noisy, self.bus, f"noise-{i}") for i in range(failing)]
        for number, stage in enumerate(failed):
            await asyncio.to_thread(self._fails, stage, number)
        seconds = [await self._change(healthy[number % len(healthy)], 3 + number) for number in range(changes)]
        for stage in (*healthy, *failed):
            path = stage.path(stage.name)
            await asyncio.to_thread(
                self.cluster.api.merge, path, {"metadata": {"annotations": {SKIP_ANNOTATION: "true"}}}
            )
            await asyncio.to_thread(self.cluster.api.delete, path)
        for stage in (*healthy, *failed):
            await self._is(stage.path(stage.name), there=False)
            claim = f"{PLURALS['claim'].format(space=stage.namespace)}/{stage.name}-storage"
            await asyncio.to_thread(remove, self.cluster.api, claim)
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

        async def is_applied() -> bool:
            seen = self.cluster.audit_log.writes(since=since, namespace=stage.namespace)
            done = [one for one in seen if one.code < 300 and "/" not in one.resource]
            changed = [one.at for one in done if one.name == stage.name and not one.user_agent.startswith(OPERATOR)]
            applied = [
                one.at
                for one in done
                if (one.resource, one.name) == ("deployments.apps", f"{stage.name}-workers")
                and one.user_agent.startswith(OPERATOR)
            ]
            took[:] = [applied[0] - changed[0]] if changed and applied else []
            return bool(took)

        await until(is_applied, seconds=PATIENCE)
        return took[0]

    async def _is(self, path: str, *, there: bool) -> None:
        async def so() -> bool:
            return await asyncio.to_thread(is_there, self.cluster.api, path) is there

        await until(so, seconds=PATIENCE)
