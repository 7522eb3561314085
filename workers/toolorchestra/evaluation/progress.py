"""Results of the policy on held-out tasks during training."""

from __future__ import annotations

from typing import Any

from toolorchestra.evaluation.attempt import attempts_of
from toolorchestra.evaluation.baselines import INITIAL_POLICY, POLICY
from toolorchestra.evaluation.interval import wilson
from toolorchestra.evaluation.run_data import RunData


def progress(data: RunData) -> list[dict[str, Any]]:
    """Return the policy's results on held-out tasks, by suite and step; step 0 is the policy before RL."""
    rows = []
    last = int(data.metrics[-1]["step"]) if data.metrics else 0
    for suite, steps in data.during.items():
        systems = data.evaluations.get(suite, {})
        ends = {0: systems.get(INITIAL_POLICY, ()), last: systems.get(POLICY, ())}
        for step, traces in sorted({**ends, **steps}.items()):
            scored = [a for a in attempts_of(traces) if a.outcome is not None]
            if scored:
                right = sum(a.right for a in scored)
                rows.append(
                    {
                        "suite": suite,
                        "step": step,
                        "tasks": len(scored),
                        "accuracy": right / len(scored),
                        "accuracyInterval": list(wilson(right, len(scored))),
                        "nominalUSDPerTask": sum(a.nominal_usd for a in scored) / len(scored),
                    }
                )
    return rows
