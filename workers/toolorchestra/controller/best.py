"""Finds the best version of the policy: the highest reward on the first suite, with the same tasks and scale for all.

The reward is that of the report (evaluation/reward_scale.py), so both agree on the best version. With equal rewards the
cheaper version is better; with equal cost too, the earlier one. A version that was scored on too few of the suite's
tasks (`evaluation.baselines.MAX_UNSCORED`) is not compared: it may be bad at the missing tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolorchestra.controller.monitoring.stats import mean
from toolorchestra.evaluation.archive import SUFFIX, lost_in, traces_in
from toolorchestra.evaluation.attempt import Attempt, attempts_of
from toolorchestra.evaluation.baselines import calls_by_task, is_covered, scored_of
from toolorchestra.evaluation.reward_scale import attempt_reward, scales
from toolorchestra.rewards.registry import RewardConfig
from toolorchestra.rollout.baselines import ALWAYS


@dataclass(frozen=True, order=True)
class Score:
    """The score of a version; the greater, the better. `saved` is minus the nominal dollars per task."""

    reward: float
    saved: float
    accuracy: float
    tasks: int

    def as_dict(self) -> dict[str, float]:
        """Return the score for status files and manifests."""
        return {
            "reward": self.reward,
            "accuracy": self.accuracy,
            "nominalUSDPerTask": -self.saved,
            "tasks": self.tasks,
        }

    @classmethod
    def parse(cls, said: dict[str, float]) -> Score:
        """Return the score that `as_dict` wrote."""
        return cls(said["reward"], -said["nominalUSDPerTask"], said["accuracy"], int(said["tasks"]))


def score(suite: Path, traces: Path, *, config: RewardConfig) -> Score | None:
    """Score the evaluation in `traces`; None where too few tasks were scored.

    The `always:` files in the folder `suite` give the scale.
    """
    alone = {path.name.removesuffix(SUFFIX): attempts_of(traces_in(path)) for path in suite.glob(f"{ALWAYS}*{SUFFIX}")}
    return score_attempts(attempts_of(traces_in(traces)), alone, config=config, lost=lost_in(traces))


def score_attempts(
    attempts: Sequence[Attempt], alone: dict[str, list[Attempt]], *, config: RewardConfig, lost: int = 0
) -> Score | None:
    """Score an evaluation's attempts (the pure part of `score`).

    `alone`: attempts of the `always:` systems, by name. `lost`: number of tasks that ended without a trace.
    """
    by_task = scales(calls_by_task(alone), config=config)
    scored = scored_of(attempts)
    if not is_covered(scored=len(scored), asked=len(attempts) + lost):
        return None
    return Score(
        reward=mean([attempt_reward(a, config=config, scale=by_task.get(a.key)) for a in scored]),
        saved=-mean([a.nominal_usd for a in scored]),
        accuracy=mean([float(a.right) for a in scored]),
        tasks=len(scored),
    )
