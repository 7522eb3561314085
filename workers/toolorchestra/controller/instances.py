"""The instances of a training: the task and the view of each group. A pure function of seed and group number.

A group's instance is therefore never stored: a resume, a repeated dispatch and a report all compute the same one.
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
    """A task and its view, which the siblings of a group share."""

    task: Task
    view: InstanceView


@dataclass(frozen=True)
class Instances:
    """Computes instances from a training's suite, tools and preferences."""

    suite: Suite
    sampler: ViewSampler
    limits: EpisodeLimits
    seed: int
    preferences: TemplatePreferences | None = None

    def instance(self, group: int) -> Instance:
        """Return the instance of a training group; the group number is the position in the suite."""
        return self.view_of(self.suite.train_task(group), key=f"{self.seed}/group/{group}")

    def view_of(
        self, task: Task, *, key: str, sampler: ViewSampler | None = None, split: PreferenceSplit = "train"
    ) -> Instance:
        """Draw a task's view; `key` seeds the draw."""
        view = (sampler or self.sampler).sample(random.Random(key), tools=task.tools)
        if self.preferences is not None:
            view = replace(self.preferences, split=split).attach(view, key=key)
        return Instance(task, view)

    def order(self, dispatch: Dispatch, *, allowance: Decimal | None = None) -> Order:
        """Return the order for one training dispatch. The orders of siblings differ only in their sampling seed.

        `allowance`: the most that the episode may really cost, in dollars.
        """
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
    """Return a seed of 31 bits for one episode: the same in every run with this seed; for baselines that draw."""
    return random.Random(f"{seed}/{group}/{sample}").getrandbits(31)
