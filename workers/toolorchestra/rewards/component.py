"""Input and output of a combiner: plain numbers of one group, no traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class EpisodeComponents:
    """Raw components of one scored episode: outcome 0 or 1, cost in US dollars, latency in seconds, calls by tool."""

    outcome: float
    cost: float
    latency: float
    calls: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class GroupComponents:
    """The scored siblings of one group, the weights of its task, and the tools of its instance.

    `weights` is keyed by `outcome`, `cost`, `latency` and tool names. A missing weight is 0.
    """

    episodes: Sequence[EpisodeComponents]
    weights: Mapping[str, float]
    tools: Sequence[str]


@dataclass(frozen=True)
class GroupReward:
    """One reward and one advantage per episode of the group, in order. `keep` false: not in the backward pass."""

    rewards: tuple[float, ...]
    advantages: tuple[float, ...]
    keep: bool
    reason: str = ""
    """Why the group was dropped: `reward_std`, `uninformative`, `too_few_scored`; empty if it was kept."""


class Combiner(Protocol):
    """Turns a batch of groups into rewards and advantages. Pure."""

    def __call__(self, groups: Sequence[GroupComponents]) -> list[GroupReward]: ...
