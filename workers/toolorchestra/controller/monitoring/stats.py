"""What a step's line in metrics.jsonl says of its episodes. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from toolorchestra.controller.assemble import version_span
from toolorchestra.rewards.component import GroupReward
from toolorchestra.rollout.trace import Trace
from toolorchestra.trainer.batch import Mismatch


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; 0 of nothing."""
    return math.fsum(values) / len(values) if values else 0.0


def lags_of(traces: Sequence[Trace], *, step: int) -> list[int]:
    """Versions that the oldest token of each trace is behind `step`; nothing for a trace without one of the policy."""
    return [step - span[0].step for trace in traces if (span := version_span(trace))]


def mismatch_figures(mismatch: Mismatch | None) -> dict[str, Any]:
    """Trainer against engine; a step without a token to compare on has no figure, and no 0 either."""
    if mismatch is None:
        return {}
    return {"mismatch_k3": mismatch.k3, "mismatch_rms": mismatch.rms, "mismatch_tokens": mismatch.tokens}


def episode_stats(traces: Sequence[Trace], rewards: Sequence[GroupReward], *, step: int) -> dict[str, Any]:
    """Of the traces that trained in the step from `step` to `step + 1`.

    Of none (`whenShort: Shrink`, and no group taught anything) there is no mean of anything.
    """
    if not traces:
        return {"episodes": 0, "forks": 0, "endings": {}, "calls": {}}
    flat = [r for group in rewards for r in group.rewards]
    middle = mean(flat)
    lags = lags_of(traces, step=step)
    calls: Counter[str] = Counter()
    for trace in traces:
        calls.update(trace.components.calls)
    samples = [sample for trace in traces for sample in trace.samples]
    return {
        "episodes": len(traces),
        "reward_mean": middle,
        "reward_std": math.sqrt(mean([(r - middle) ** 2 for r in flat])),
        "accuracy": mean([trace.components.outcome or 0.0 for trace in traces]),
        "nominal_usd_per_task": mean([float(trace.components.cost_usd) for trace in traces]),
        "actual_usd_per_task": mean([float(trace.components.actual_usd) for trace in traces]),
        "service_seconds_per_task": mean([trace.components.service_seconds for trace in traces]),
        "wall_seconds_per_task": mean([trace.components.wall_seconds for trace in traces]),
        "turns_per_task": mean([float(len(trace.turns)) for trace in traces]),
        "valid_fraction": mean([float(sample.well_formed) for sample in samples]),
        "forks": sum(trace.forks for trace in traces),
        "staleness_mean": mean([float(lag) for lag in lags]),
        "staleness_max": max(lags, default=0),
        "endings": dict(Counter(trace.ending.value for trace in traces)),
        "calls": dict(calls),
    }
