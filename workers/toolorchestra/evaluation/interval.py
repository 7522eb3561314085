"""Confidence intervals. Every accuracy and every difference in a report has one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

RESAMPLES = 10_000
_CHUNK = 500


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a − b over `pairs` pairs, with its 95 % interval."""

    mean: float
    low: float
    high: float
    pairs: int


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion (Wilson 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    p, z2 = successes / trials, Z95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # At 0 and at all successes one end is exactly 0 or 1; rounding must not push it inside.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return low, high


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> PairedDifference:
    """Return the mean of a[i] − b[i] with the 95 % percentile interval of a paired bootstrap over tasks (fixed seed).

    ValueError where the lengths differ or are 0.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"need pairs: {len(a)} and {len(b)} values")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            differences[rng.integers(0, len(differences), size=(min(_CHUNK, resamples - done), len(differences)))].mean(
                axis=1
            )
            for done in range(0, resamples, _CHUNK)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return PairedDifference(float(differences.mean()), float(low), float(high), len(differences))


def mean_band(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % normal interval, which is the mean for one value. ValueError without values."""
    if not values:
        raise ValueError("no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, mean, mean
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    half = Z95 * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half
