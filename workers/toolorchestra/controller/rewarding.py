"""Computes rewards of finished groups: whether a group is kept, and every episode's advantage in a step. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from toolorchestra.controller.assemble import SampleFilters, train_samples
from toolorchestra.controller.instances import Instance
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rewards.component import Combiner, GroupComponents, GroupReward
from toolorchestra.rewards.registry import CENTRED, RewardConfig, build_combiner, task_weights
from toolorchestra.rollout.components import group_components
from toolorchestra.rollout.trace import Trace
from toolorchestra.trainer.batch import TrainSample


@dataclass(frozen=True)
class Rewarding:
    """The reward of a training: its configuration, combiner and filters."""

    config: RewardConfig
    filters: SampleFilters
    combiner: Combiner = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "combiner", build_combiner(self.config))

    @property
    def centred(self) -> bool:
        """Whether the mean reward of a step is 0 by construction."""
        return self.config.combiner in CENTRED

    def components(self, instance: Instance, traces: Sequence[Trace]) -> GroupComponents:
        """Return the group's raw components, with the weights for its preference (method.md §3)."""
        weights = task_weights(self.config, instance.view.preference)
        tools = [expert.pool for expert in instance.view.experts]
        return group_components(traces, weights=weights, tools=tools, latency=self.config.latency)

    def judge(self, group: GroupComponents) -> GroupReward:
        """Return whether the group is kept; its advantages may still change with the other groups of its step."""
        return self.combiner([group])[0]

    def batch(
        self, groups: Sequence[tuple[Instance, Sequence[Trace]]], *, version: PolicyVersion
    ) -> tuple[list[TrainSample], list[GroupReward]]:
        """Return the step's samples with advantages, and the groups' rewards. `version`: weights at its beginning."""
        rewards = self.combiner([self.components(instance, traces) for instance, traces in groups])
        samples = [
            sample
            for (_, traces), reward in zip(groups, rewards, strict=True)
            for trace, advantage in zip(traces, reward.advantages, strict=True)
            for sample in train_samples(trace, advantage=advantage, filters=self.filters, version=version)
        ]
        return samples, rewards
