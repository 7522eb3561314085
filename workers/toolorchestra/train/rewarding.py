"""Rewards of finished groups: which are kept, and the advantage of every episode of a step. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from toolorchestra.rewards.component import Combiner, GroupComponents, GroupReward
from toolorchestra.rollout.trace import Trace
from toolorchestra.train.assemble import SampleFilters, group_components, train_samples
from toolorchestra.train.batch import TrainSample
from toolorchestra.train.world import Instance


@dataclass(frozen=True)
class Rewarding:
    """The training's reward, ready to use."""

    combiner: Combiner
    weights: Mapping[str, float]
    """The run's weights; a task with a preference brings its own."""
    latency: Literal["Service", "WallClock"]
    filters: SampleFilters

    def components(self, instance: Instance, traces: Sequence[Trace]) -> GroupComponents:
        """The group's raw components with the weights that hold for it (method.md §3)."""
        preference = instance.view.preference
        weights = self.weights if preference is None else {k: float(v) for k, v in preference.weights.items()}
        tools = [expert.pool for expert in instance.view.experts]
        return group_components(traces, weights=weights, tools=tools, latency=self.latency)

    def judge(self, group: GroupComponents) -> GroupReward:
        """Whether a group alone is kept; its advantages may still change with its batch."""
        return self.combiner([group])[0]

    def batch(self, groups: Sequence[tuple[Instance, Sequence[Trace]]]) -> tuple[list[TrainSample], list[GroupReward]]:
        """The step's samples with their advantages."""
        rewards = self.combiner([self.components(instance, traces) for instance, traces in groups])
        samples = [
            sample
            for (_, traces), reward in zip(groups, rewards, strict=True)
            for trace, advantage in zip(traces, reward.advantages, strict=True)
            for sample in train_samples(trace, advantage=advantage, filters=self.filters)
        ]
        return samples, rewards
