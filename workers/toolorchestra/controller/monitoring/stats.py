"""Statistics of a step's episodes for its line in metrics.jsonl. Pure."""

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
    """Return the arithmetic mean; 0 for an empty list."""
    return math.fsum(values) / len(values) if values else 0.0


def lags_of(traces: Sequence[Trace], *, step: int) -> list[int]:
    """Return each trace's staleness: steps from its oldest policy token to `step`; traces without one are left out."""
    return [step - span[0].step for trace in traces if (span := version_span(trace))]


def mismatch_figures(mismatch: Mismatch | None) -> dict[str, Any]:
    """Return the mismatch between trainer and engine; empty where the step had no token to compare."""
    if mismatch is None:
        return {}
    return {"mismatch_k3": mismatch.k3, "mismatch_rms": mismatch.rms, "mismatch_tokens": mismatch.tokens}


def episode_stats(traces: Sequence[Trace], rewards: Sequence[GroupReward], *, step: int) -> dict[str, Any]:
    """Return the statistics of the traces that trained in the step from `step` to `step + 1`.

    Without traces (`whenShort: Shrink`, and no useful group), there are no means.
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
