"""The demo's world without its servers: tasks, instances and experts' answers as numbers, from the YAML alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolorchestra.api.load import load
from toolorchestra.api.skill_table import SkillTable
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.controller.settings import EvaluationSuite, Settings, settings_of
from toolorchestra.experts.simulated import SimulatedTask
from toolorchestra.experts.skills import is_right, simulated_answer
from toolorchestra.tasks.suite import Suite
from toolorchestra.tasks.task import Task
from toolorchestra.tools.sampler import ViewSampler
from toolorchestra.tools.view import InstanceView


@dataclass(frozen=True)
class Outcome:
    """What choosing one expert gives: right or not, nominal US dollars of its call, seconds."""

    right: bool
    usd: float
    seconds: float


@dataclass(frozen=True)
class DemoWorld:
    training: OrchestratorTraining
    table: SkillTable
    settings: Settings

    @property
    def suite(self) -> Suite:
        return self.settings.instances.suite

    @property
    def sampler(self) -> ViewSampler:
        return self.settings.instances.sampler

    def instance(self, seed: int, group: int) -> tuple[Task, InstanceView]:
        """Training instance number `group` of a run."""
        instance = replace(self.settings.instances, seed=seed).instance(group)
        return instance.task, instance.view

    def held_out(self, suite: EvaluationSuite, *, seed: int) -> list[tuple[Task, InstanceView]]:
        tasks = suite.suite.held_out(suite.size)
        return [(t, suite.sampler.sample(random.Random(f"{seed}/evaluation/{suite.name}/{t.id}"))) for t in tasks]

    def outcome(self, task: Task, view: InstanceView, pool: str) -> Outcome:
        """What the simulator would give; the same for all siblings."""
        answer = simulated_answer(self.table, pool, SimulatedTask(id=task.id, topic=task.topic, answer="1"))
        expert = next(e for e in view.experts if e.pool == pool)
        tokens_in = _expert(self.table, pool)
        usd = expert.price.of(tokens_in=tokens_in, tokens_out=answer.tokens_out)
        return Outcome(is_right(self.table, pool, task_id=task.id, topic=task.topic), float(usd), answer.seconds)


def _expert(table: SkillTable, pool: str) -> int:
    expert = table.expert(pool)
    assert expert is not None, pool
    assert expert.tokens_in is not None, f"{pool}: the lab's costs need tokensIn in the skill table"
    return expert.tokens_in


def load_world(folder: Path) -> DemoWorld:
    """Read `training.yaml`, `pools.yaml` and `skills.yaml`."""
    bundle = load([folder / name for name in ("training.yaml", "pools.yaml", "skills.yaml")])
    (training,), (table,) = bundle.trainings, bundle.skill_tables
    return DemoWorld(training, table, settings_of(training, bundle.experts(training.spec.tools), find=Path))


def alias_words(world: DemoWorld) -> Sequence[str]:
    """Every word that serves as an alias, in training or in a suite."""
    randomize = world.training.spec.tools.randomize
    lists = [randomize.alias_names or (), *(s.alias_names or () for s in world.training.spec.evaluation.suites)]
    return sorted({word for names in lists for word in names})
