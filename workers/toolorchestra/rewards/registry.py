"""Builds combiners from the YAML: `reward.combiner`, its options, and the weights of a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from toolorchestra.plugins import PluginError, is_plugin, load, shown
from toolorchestra.rewards.checked import CheckedCombiner
from toolorchestra.rewards.columns import COST, LATENCY, OUTCOME
from toolorchestra.rewards.component import Combiner
from toolorchestra.rewards.gdpo import GDPO
from toolorchestra.rewards.minmax_dot import MinMaxDot
from toolorchestra.rewards.weighted_sum import WeightedSum
from toolorchestra.tools.view import Preference

COMBINERS = ("MinMaxDot", "GDPO", "WeightedSum")
"""This project's own. Other packages' are named `package/Name`."""
CENTRED = frozenset({"GDPO"})
"""Combiners that normalise over the batch: their rewards have mean 0 whatever the policy does, so no curve is drawn."""
LatencySource = Literal["Service", "WallClock"]
MOST_WEIGHT = 1e9
"""Largest weight, as in the YAML (`api.scalars.Number`)."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """`spec.reward` and the two reward filters of `spec.algorithm`, as plain numbers.

    `min_range` is keyed by component (`cost` in US dollars, `latency` in seconds). `latency` is the clock of the
    latency component. ValueError, with the field's name, if the combiner cannot take a weight.
    """

    combiner: str = "GDPO"
    weights: Mapping[str, float] = field(default_factory=lambda: {OUTCOME: 1.0})
    latency: LatencySource = "Service"
    min_range: Mapping[str, float] = field(default_factory=dict[str, float])
    min_reward_std: float | None = 0.1
    informative: bool = False
    gate: bool = True

    def __post_init__(self) -> None:
        if self.combiner not in COMBINERS and not is_plugin(self.combiner):
            known = ", ".join(COMBINERS)
            raise ValueError(f"combiner: {self.combiner!r} is not one of {known}, nor package/Name of a plug-in")
        check_weights(self.weights, combiner=self.combiner)


def check_weights(weights: Mapping[str, float], *, combiner: str) -> None:
    """ValueError unless each weight is finite and ≥ 0, one is above 0, and (with normalised components) all are ≤ 1."""
    if not any(weights.values()):
        raise ValueError("weights: all are 0, so every episode is worth the same: give at least one a weight above 0")
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(
                f"weights.{name}: {weight} is below 0 or not finite; cost and latency are losses already,"
                " so a positive weight punishes them"
            )
        if weight > 1 and combiner != "WeightedSum" and not is_plugin(combiner):
            raise ValueError(
                f"weights.{name}: {weight} is above 1; {combiner} normalises every component, so weights lie in"
                " [0, 1] and only their ratios matter (WeightedSum takes any)"
            )
        if weight > MOST_WEIGHT:
            raise ValueError(f"weights.{name}: {weight} is above {MOST_WEIGHT:g}")


def reward_config(spec: Mapping[str, Any]) -> RewardConfig:
    """Return the configuration in a training's `spec` (JSON with its own keys, decimals as strings).

    Reads `reward` (combiner, weights, latency, minRange, gate) and `algorithm.filters` (minRewardStd, informative). An
    absent field has its default. Raises ValueError as RewardConfig does.
    """
    reward: Mapping[str, Any] = spec.get("reward") or {}
    filters: Mapping[str, Any] = (spec.get("algorithm") or {}).get("filters") or {}
    ranges: Mapping[str, Any] = reward.get("minRange") or {}
    units = {COST: ("costUSD", 1.0), LATENCY: ("latencyMilliseconds", 0.001)}
    threshold = filters.get("minRewardStd", "0.1")
    weights = {name: float(w) for name, w in (reward.get("weights") or {}).items() if w is not None}
    return RewardConfig(
        combiner=reward.get("combiner", "GDPO"),
        weights=weights or {OUTCOME: 1.0},
        latency=reward.get("latency", "Service"),
        min_range={
            name: float(ranges[key]) * unit for name, (key, unit) in units.items() if ranges.get(key) is not None
        },
        min_reward_std=None if threshold is None else float(threshold),
        informative=bool(filters.get("informative", False)),
        gate=bool(reward.get("gate", True)),
    )


def build_combiner(config: RewardConfig) -> Combiner:
    """Return the configured combiner with its options."""
    if is_plugin(config.combiner):
        return _plugin(config)
    if config.combiner == "MinMaxDot":
        return MinMaxDot(
            min_range=config.min_range, min_reward_std=config.min_reward_std, informative=config.informative
        )
    if config.combiner == "GDPO":
        return GDPO(min_range=config.min_range, informative=config.informative, gate=config.gate)
    return WeightedSum(min_range=config.min_range, min_reward_std=config.min_reward_std, informative=config.informative)


CombinerMaker = Callable[[RewardConfig], Combiner]
"""What an entry point of the group `toolorchestra.combiners` refers to: a class, or a function, of the settings."""


def _plugin(config: RewardConfig) -> Combiner:
    name = config.combiner
    maker: CombinerMaker = load("toolorchestra.combiners", name)
    try:
        combiner = maker(config)
    except Exception as error:
        raise PluginError(f"combiner {name} cannot be made: {shown(error)}") from error
    if not callable(combiner):
        raise PluginError(f"combiner {name} makes a {type(combiner).__name__}, which cannot be called")
    return CheckedCombiner(name, combiner)


def task_weights(config: RewardConfig, preference: Preference | None) -> dict[str, float]:
    """Return the weights of a task: its preference's weights, or the run's own. A tool that is not named has 0."""
    if preference is not None:
        return {name: float(weight) for name, weight in preference.weights.items()}
    return {name: float(weight) for name, weight in config.weights.items()}
