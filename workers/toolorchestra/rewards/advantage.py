"""The advantage: the distance of a reward from the mean of its siblings, in standard deviations.

A = (R − mean) / std (method.md §3). The standard deviation is the *sample* one (divisor n − 1), as in the group
advantages of verl and TRL. There is no epsilon: values that are equal up to rounding get 0, so nothing is divided by
almost zero. Sums are exact (`math.fsum`), so the order of the siblings cannot change a result.

Invariant: the advantages of a group's siblings add up to 0, and are exactly 0 if their rewards are equal. The same
holds over a batch, with the batch's standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolorchestra.rewards.columns import are_equal, magnitude


def sample_std(values: Sequence[float]) -> float:
    """Return the standard deviation with divisor n − 1; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def standardise(values: Sequence[float]) -> tuple[float, ...]:
    """Return (value − mean) / std of each value; all 0 if the values do not differ."""
    (group,) = standardise_groups([values])
    return group


def standardise_groups(groups: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """Return (value − its group's mean) / std of all groups' values; 0 in a group whose values do not differ."""
    # Scaling by a power of two does not round. Unscaled, the mean of tiny dollars, or their squares, would underflow.
    _, exponent = math.frexp(max(map(magnitude, groups), default=0.0))
    centred = [_centre([math.ldexp(v, -exponent) for v in group]) for group in groups]
    scale = max(map(magnitude, centred), default=0.0)
    if not scale:
        return [(0.0,) * len(group) for group in groups]
    std = sample_std([c / scale for group in centred for c in group])
    return [tuple(c / scale / std for c in group) for group in centred]


def _centre(values: Sequence[float]) -> list[float]:
    if are_equal(values):
        return [0.0] * len(values)
    # First subtract the smallest value, without rounding: with a large common offset, rounding the mean could exceed
    # the differences of the values. The smallest, so that the order does not matter.
    least = min(values)
    above = [v - least for v in values]
    mean = math.fsum(above) / len(above)
    return [v - mean for v in above]
