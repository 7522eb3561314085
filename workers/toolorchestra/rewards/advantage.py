"""The advantage: how far a reward lies from its siblings', in standard deviations.

A = (R − mean) / std (method.md §3), with the *sample* standard deviation (divisor n − 1), as verl's and TRL's group
advantage have it, and with no epsilon: values that are equal up to rounding get 0 instead of a division by almost
nothing. Sums are exact (`math.fsum`), so the order of the siblings cannot change a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolorchestra.rewards.columns import ROUNDING, spread


def sample_std(values: Sequence[float]) -> float:
    """Standard deviation with divisor n − 1; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def standardise(values: Sequence[float]) -> tuple[float, ...]:
    """(value − mean) / std of each value; all 0 where the values do not differ."""
    largest = max((abs(v) for v in values), default=0.0)
    if len(values) < 2 or spread(values) <= ROUNDING * largest:
        return (0.0,) * len(values)
    mean = math.fsum(values) / len(values)
    # Centre first, and scale by the largest deviation: squares of tiny dollars would underflow.
    centred = [v - mean for v in values]
    scale = max(abs(c) for c in centred)
    std = sample_std([c / scale for c in centred])
    return tuple(c / scale / std for c in centred)
