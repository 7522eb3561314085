"""Intervals against known values and against their own coverage."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.evaluation.interval import mean_band, paired_difference, wilson


@pytest.mark.parametrize(
    ("right", "tasks", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (240, 300, 0.7511, 0.8413)],
)
def test_wilson_gives_the_textbook_values(right: int, tasks: int, low: float, high: float) -> None:
    assert wilson(right, tasks) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_proportion_and_stays_within_bounds(case: tuple[int, int]) -> None:
    right, tasks = case
    low, high = wilson(right, tasks)
    assert 0 <= low <= high <= 1
    assert tasks == 0 or low <= right / tasks <= high


def test_a_constant_difference_has_no_width() -> None:
    result = paired_difference([0.75, 1.5, 2.25], [0.5, 1.25, 2.0])
    assert (result.mean, result.low, result.high, result.pairs) == (0.25, 0.25, 0.25, 3)


def test_pairing_sees_a_small_shift_under_large_noise_and_is_reproducible() -> None:
    rng = random.Random(0)
    base = [rng.gauss(0, 10) for _ in range(200)]
    better = [b + 0.5 + rng.gauss(0, 0.5) for b in base]
    result = paired_difference(better, base)
    assert 0.3 < result.low < result.mean < result.high < 0.7
    assert result == paired_difference(better, base)
    assert result != paired_difference(better, base, seed=1)


def test_the_bootstrap_covers_about_95_percent() -> None:
    rng = random.Random(1)
    hits = 0
    for _ in range(200):
        values = [rng.gauss(1, 2) for _ in range(60)]
        result = paired_difference(values, [0.0] * 60, resamples=1000)
        hits += result.low <= 1 <= result.high
    assert 176 <= hits <= 199


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([1, 2], [1])
    with pytest.raises(ValueError, match="need pairs"):
        paired_difference([], [])


def test_a_band_is_symmetric_around_the_mean() -> None:
    mean, low, high = mean_band([0.0, 1.0, 2.0, 3.0])
    assert mean == 1.5
    assert mean - low == pytest.approx(high - mean)
    assert mean_band([2.0]) == (2.0, 2.0, 2.0)
