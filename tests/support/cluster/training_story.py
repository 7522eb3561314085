"""Stories of a training on a real API server and NATS server, and what was there whenever the operator rested."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from support.cluster.mortal_operator import LookingOperator, Write, Writes
from support.cluster.training_life import Stage
from testbed.api import Api, Refused
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.runtime.settings import Settings

ATTEMPTS = 2
"""Of every story."""
TTL_AND_MORE = timedelta(days=1, seconds=1)


def settings(nats_server: NatsServer, **more: object) -> Settings:
    images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
    return Settings.model_validate({"nats_url": nats_server.url, **images, **more})


@dataclass
class Life:
    """A training's life, looked at whenever the operator has come to rest."""

    operator: LookingOperator
    stage: Stage
    worlds: list[dict[str, str]] = field(default_factory=list)

    async def rests(self) -> None:
        await self.operator.settles(self.stage.namespace, self.stage.name)
        self.worlds.append(await self.stage.world())

    async def begins(self) -> None:
        self.stage.submit()
        for pool in ("small", "large"):
            await self.operator.settles(self.stage.namespace, pool, kind="ExpertPool")
        await self.rests()

    async def runs(self, attempt: int, *, step: int) -> None:
        self.stage.collect_pods()
        await self.rests()
        await self.stage.tells(attempt, step)
        self.stage.comes_up(attempt)
        await self.rests()
        assert self.stage.condition("Running") == ("True", "Training")

    async def is_deleted(self) -> None:
        uid = self.stage.names.short_uid
        self.stage.api.delete(self.stage.path(self.stage.name))
        await self.operator.settles(self.stage.namespace, self.stage.name)
        with pytest.raises(Refused, match="not found"):
            self.stage.live()
        assert not await self.stage.streams(uid)


async def fails_once_completes_and_is_kept_for_its_ttl(life: Life) -> None:
    stage = life.stage
    await life.begins()
    await life.runs(1, step=1)
    stage.head_ends(1, 1, message="ValueError: boom")
    await life.rests()
    await life.runs(2, step=5)
    await stage.tells(2, 10, state="Complete")
    stage.head_ends(2, 0)
    await life.rests()
    assert stage.condition("Complete") == ("True", "StepsDone")
    life.operator.now += TTL_AND_MORE
    await life.rests()
    await life.is_deleted()


async def is_suspended_resumed_and_deleted_while_it_runs(life: Life) -> None:
    stage = life.stage
    await life.begins()
    await life.runs(1, step=1)
    for suspend in (True, False):
        stage.api.merge(stage.path(stage.name), {"spec": {"suspend": suspend}})
        await life.rests()
    await life.runs(2, step=5)
    await life.is_deleted()


Story = Callable[[Life], Coroutine[Any, Any, None]]


def a_namespace(api: Api, name: str) -> str:
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    return name


def difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    """In lines, for a failure's message; empty: there is none."""
    sides = [
        [f"{what}: {line}" for what in sorted(world) for line in world[what].splitlines()] for world in (found, wanted)
    ]
    return "\n".join(difflib.unified_diff(*sides, "found", "wanted", n=1, lineterm=""))


async def lived(
    story: Story, server: ApiServer, stage: Stage, options: Settings, fatal: frozenset[Write] = frozenset()
) -> tuple[list[dict[str, str]], LookingOperator]:
    """What was there at every rest, and the operator after it."""
    life = Life(LookingOperator(server, options, Writes(fatal)), stage)
    await story(life)
    await life.operator.close()
    return life.worlds, life.operator
