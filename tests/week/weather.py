"""What befalls the cluster meanwhile: the operator, the API server and NATS are killed and come back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from support.cluster.operator_process import RunningOperator, operator_process
from testbed.cluster import Cluster
from toolorchestra.local.nats_server import NatsServer

KINDS = ("operator", "operator", "operator", "operator", "API server", "NATS")
"""Drawn from: the operator dies most."""


@dataclass
class Operators:
    """The operator's process, and the next one when it was killed."""

    cluster: Cluster
    folder: Path
    nats_url: str
    stack: AsyncExitStack
    running: RunningOperator | None = None

    async def start(self) -> RunningOperator:
        flags = ("--nats-url", self.nats_url, "--resync-seconds", "60", "--cpu-image", "week/cluster:1")
        flags += ("--worker-image", "week/worker:1", "--pool-cpu-image", "week/cluster:1")
        context = operator_process(self.cluster.kubeconfig, self.folder / "operator.log", *flags)
        self.running = await self.stack.enter_async_context(context)
        return self.running

    async def killed(self) -> None:
        """At any moment; the next one starts at once."""
        assert self.running is not None
        await self.running.ends(signal.SIGKILL)
        await self.start()


@dataclass
class Weather:
    """`storms` of them, spread over the lives by their number."""

    cluster: Cluster
    operators: Operators
    server: NatsServer
    rng: random.Random
    storms: int
    counts: Counter[str] = field(default_factory=Counter[str])

    async def blow(self, *, ended: Callable[[], int], lives: int) -> None:
        """Returns after the last one."""
        for number in range(self.storms):
            due = lives * (number + 1) // (self.storms + 2)
            while ended() < due:  # noqa: ASYNC110 - a count of other tasks has no event
                await asyncio.sleep(0.2)
            # All kinds come, in an order that is drawn.
            kind = KINDS[number % len(KINDS)] if number < len(KINDS) else self.rng.choice(KINDS)
            self.counts[kind] += 1
            await self._befall(kind)

    async def _befall(self, kind: str) -> None:
        match kind:
            case "operator":
                await self.operators.killed()
            case "API server":
                await self.cluster.own.restart_api_server(down=self.rng.uniform(0.0, 3.0), kill=self.rng.random() < 0.5)
            case "NATS":
                seen = self.server.restarts
                os.kill(self.server.pid, signal.SIGKILL)
                await self.server.restarted(after=seen)
