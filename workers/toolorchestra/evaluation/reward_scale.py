"""The evaluation's reward: the run's weights on a scale that no evaluated system can change.

Rewards in training compare siblings: MinMaxDot and GDPO normalise over the group, so their values have no meaning
outside it, and two systems have no common group. Evaluation therefore fixes the scale *per task* by the experts alone:
cost and latency are 1 at the cheapest (fastest) `always:` attempt of that task and 0 at the most expensive (slowest),
clipped to [0, 1]; calls count by their number, at most 1. As in training, a wrong episode gets 0:

    R = p_outcome + p_cost · cheapness + p_latency · speed + Σ p_tool · min(1, calls)   if right, else 0.

All systems use the same scale, and only the `always:` baselines set it. WeightedSum needs no scale: its reward is the
raw weighted sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from toolorchestra.evaluation.attempt import Attempt
from toolorchestra.evaluation.baselines import Calls
from toolorchestra.rewards.columns import COST, LATENCY, OUTCOME, RESERVED
from toolorchestra.rewards.registry import RewardConfig, task_weights

DESCRIPTION = (
    "The run's weights on a scale fixed per task by the experts alone: cost and latency count 1 at the cheapest"
    " (fastest) single expert and 0 at the dearest (slowest), clipped; a wrong answer gets 0."
)
RAW_DESCRIPTION = "The run's raw weighted sum of outcome, nominal dollars, seconds and calls."


@dataclass(frozen=True)
class RewardScale:
    """Lowest and highest nominal dollars and seconds of the experts alone on one task."""

    usd: tuple[float, float]
    seconds: tuple[float, float]

    @classmethod
    def of(cls, attempts: Iterable[Attempt], *, config: RewardConfig) -> RewardScale:
        """Return the scale that these attempts span; ValueError without attempts."""
        listed = list(attempts)
        usd = [a.nominal_usd for a in listed]
        seconds = [latency_of(a, config) for a in listed]
        return cls((min(usd), max(usd)), (min(seconds), max(seconds)))


def latency_of(attempt: Attempt, config: RewardConfig) -> float:
    """Return the latency in seconds that the run's reward uses: service time or wall time."""
    return attempt.service_seconds if config.latency == "Service" else attempt.wall_seconds


def scales(by_task: Mapping[str, Calls], *, config: RewardConfig) -> dict[str, RewardScale]:
    """Return the scale of every task that at least one expert was scored on alone."""
    return {key: RewardScale.of(calls.values(), config=config) for key, calls in by_task.items()}


def attempt_reward(attempt: Attempt, *, config: RewardConfig, scale: RewardScale | None) -> float:
    """Return the reward of one scored attempt. Without a scale, cost and latency count 0 for all systems."""
    weights = task_weights(config, attempt.view.preference)
    tools = {name: weight for name, weight in weights.items() if name not in RESERVED}
    if config.combiner == "WeightedSum":
        return (
            weights.get(OUTCOME, 0.0) * (attempt.outcome or 0.0)
            - weights.get(COST, 0.0) * attempt.nominal_usd
            - weights.get(LATENCY, 0.0) * latency_of(attempt, config)
            + sum(weight * attempt.calls.get(name, 0) for name, weight in tools.items())
        )
    if not attempt.right:
        return 0.0
    reward = weights.get(OUTCOME, 0.0)
    if scale is not None:
        reward += weights.get(COST, 0.0) * _share_saved(attempt.nominal_usd, scale.usd)
        reward += weights.get(LATENCY, 0.0) * _share_saved(latency_of(attempt, config), scale.seconds)
    return reward + sum(weight * min(1, attempt.calls.get(name, 0)) for name, weight in tools.items())


def _share_saved(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    if high == low:
        return 0.0
    return min(1.0, max(0.0, (high - value) / (high - low)))
