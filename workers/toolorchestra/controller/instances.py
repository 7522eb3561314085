"""The instances of a training: what group n attempts, and what its workers are told. A pure function of seed and
counter.

So a group's instance is never stored: a resume, a repeated dispatch and a report all compute the same one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from decimal import Decimal

from toolorchestra.rewards.preferences import PreferenceSplit, TemplatePreferences
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.order import EpisodeLimits, Order
from toolorchestra.rollout.trace import Sampling
from toolorchestra.tasks.suite import Suite
from toolorchestra.tasks.task import Task
from toolorchestra.tools.sampler import ViewSampler
from toolorchestra.tools.view import InstanceView


@dataclass(frozen=True)
class Instance:
    """What the siblings of a group share."""

    task: Task
    view: InstanceView


@dataclass(frozen=True)
class Instances:
    """Suite, tools and preferences of a training."""

    suite: Suite
    sampler: ViewSampler
    limits: EpisodeLimits
    seed: int
    preferences: TemplatePreferences | None = None

    def instance(self, group: int) -> Instance:
        """Task and view of a training group; the group counter is the suite's cursor."""
        return self.view_of(self.suite.train_task(group), key=f"{self.seed}/group/{group}")

    def view_of(
        self, task: Task, *, key: str, sampler: ViewSampler | None = None, split: PreferenceSplit = "train"
    ) -> Instance:
        """Draw a task's tools; `key` names the draw."""
        view = (sampler or self.sampler).sample(random.Random(key), tools=task.tools)
        if self.preferences is not None:
            view = replace(self.preferences, split=split).attach(view, key=key)
        return Instance(task, view)

    def order(self, dispatch: Dispatch, *, allowance: Decimal | None = None) -> Order:
        """What a worker needs for one training dispatch. Siblings differ in their sampling seed only."""
        episode = dispatch.episode
        instance = self.instance(episode.group)
        return Order(
            issue=str(dispatch),
            task=instance.task,
            view=instance.view,
            limits=self.limits,
            sampling=Sampling(seed=sampling_seed(self.seed, episode.group, episode.sample)),
            allowance_usd=allowance,
        )


def sampling_seed(seed: int, group: int, sample: int) -> int:
    """31 bits that differ between siblings and groups and repeat between runs of one seed; for baselines that draw."""
    return random.Random(f"{seed}/{group}/{sample}").getrandbits(31)
