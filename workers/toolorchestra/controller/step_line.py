"""Builds a step's line in metrics.jsonl. Pure, except for the time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolorchestra.controller.monitoring.stats import episode_stats, mismatch_figures
from toolorchestra.controller.versions import Versions
from toolorchestra.ledger.ledger import Ledger
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rewards.component import GroupReward
from toolorchestra.rollout.trace import Trace
from toolorchestra.trainer.batch import StepMetrics


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A step that the trainers have applied."""

    step: int
    """The step that it began from."""
    rate: float
    groups: int
    traces: Sequence[Trace]
    rewards: Sequence[GroupReward]
    samples: int
    metrics: StepMetrics | None
    """None where there was nothing to train on."""
    seconds: dict[str, float]
    """Seconds until the step was applied, by phase."""


def step_line(
    trained: Trained,
    ledger: Ledger,
    *,
    seconds: Mapping[str, float],
    versions: Versions,
    empty_steps: int,
    dropped: Mapping[str, int],
    unscored: Mapping[str, int],
    centred: bool,
) -> dict[str, Any]:
    """Return the line as a dict.

    `centred`: the mean reward is always 0, so it is left out. `dropped`, `unscored`: counts since the last step.
    """
    step, metrics = trained.step, trained.metrics
    row: dict[str, Any] = {
        "step": step + 1,
        "version": str(PolicyVersion(ledger.incarnation, step + 1)),
        "time": round(time.time(), 3),
        **episode_stats(trained.traces, trained.rewards, step=step),
        "groups_trained": trained.groups,
        "samples": trained.samples,
        "empty_steps": empty_steps,
        "learning_rate": trained.rate,
        "groups_dropped": dict(dropped),
        "unscored": dict(unscored),
        "spent_usd": float(ledger.spend.settled),
        "trainer_idle_fraction": min(1.0, seconds["generate_wait"] / max(seconds["total"], 1e-9)),
        "snapshot_seconds": round(versions.snapshot_seconds, 4),
        "engine_pause_seconds": round(versions.pause_seconds, 4),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
    }
    if centred:
        row.pop("reward_mean", None)
    if metrics is not None:
        row |= {
            "loss": metrics.loss,
            "grad_norm": metrics.grad_norm,
            "entropy": metrics.entropy,
            "kl": metrics.approx_kl,
            "clip_fraction": metrics.clip_fraction,
            "ratio_mean": metrics.ratio_mean,
            **mismatch_figures(metrics.mismatch),
            "tokens": metrics.tokens,
            "trained_tokens": metrics.trained_tokens,
            "tokens_per_second": metrics.tokens / max(seconds["total"], 1e-9),
            "trainer_seconds": metrics.seconds,
        }
    return row
