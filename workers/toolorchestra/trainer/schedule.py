"""The learning rate of every step: a linear warm-up, a plateau, a decay at the end.

It depends on the step only, so a resumed training continues with the right rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`spec.algorithm.learningRateSchedule` of a training with `steps` steps and the peak rate `peak`."""

    peak: float
    steps: int
    warmup: int = 0
    decay: Literal["None", "Linear", "Cosine"] = "None"
    decay_steps: int | None = None
    """Steps of the decay. None: all steps after the warm-up."""
    final: float = 0.0
    """Rate at the end of the decay, one step after the last, as a fraction of the peak."""

    def rate(self, step: int) -> float:
        """Return the rate of the step from version `step` to `step + 1`, 0 ≤ step < steps."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        after = self.steps - self.warmup
        length = after if self.decay_steps is None else min(self.decay_steps, after)
        begin = self.steps - length
        if self.decay == "None" or step <= begin:
            return self.peak
        gone = min(1.0, (step - begin) / length)
        left = 1.0 - gone if self.decay == "Linear" else 0.5 * (1.0 + math.cos(math.pi * gone))
        return self.peak * (self.final + (1.0 - self.final) * left)
