"""Advantages on numbers that break formulas: denormals, the largest floats, differences of one rounding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorchestra.rewards.advantage import standardise
from toolorchestra.rewards.component import Combiner, EpisodeComponents, GroupComponents
from toolorchestra.rewards.gdpo import GDPO
from toolorchestra.rewards.minmax_dot import MinMaxDot
from toolorchestra.rewards.weighted_sum import WeightedSum

ALL: list[Combiner] = [MinMaxDot(), GDPO(), GDPO(gate=False), GDPO(informative=True), WeightedSum()]
ROUNDED = math.nextafter(0.3, 1)

amount = st.sampled_from([0.0, 5e-324, 1e-308, 1e-12, 0.3, ROUNDED, 0.1, 1.0, 1e9, 1e308, 1.7e308, math.inf]) | (
    st.floats(0, 1e308)
)
weight = st.sampled_from([0.0, 5e-324, 1e-12, 0.3, 1.0])
groups = st.builds(
    GroupComponents,
    episodes=st.lists(
        st.builds(
            EpisodeComponents,
            outcome=st.sampled_from([0.0, 1.0]),
            cost=amount,
            latency=amount,
            calls=st.dictionaries(st.just("web"), st.sampled_from([0, 1, 2**60, 10**400])),
        ),
        min_size=1,
        max_size=6,
    ),
    weights=st.fixed_dictionaries(dict.fromkeys(("outcome", "cost", "latency", "web"), weight)),
    tools=st.just(("web",)),
)


def group_of(*costs: float, outcomes: tuple[int, ...] = (), **weights: float) -> GroupComponents:
    right = outcomes or (1,) * len(costs)
    episodes = [EpisodeComponents(o, cost, 0.0) for o, cost in zip(right, costs, strict=True)]
    return GroupComponents(episodes, weights or {"outcome": 1.0, "cost": 0.3}, ())


@pytest.mark.parametrize("combiner", ALL, ids=repr)
@settings(max_examples=150)
@given(batch=st.lists(groups, min_size=1, max_size=4))
def test_every_groups_advantages_are_finite_and_add_up_to_zero(
    combiner: Combiner, batch: list[GroupComponents]
) -> None:
    for result in combiner(batch):
        assert all(math.isfinite(v) for v in (*result.rewards, *result.advantages))
        assert math.fsum(result.advantages) == pytest.approx(0, abs=1e-9)
        if len(set(result.rewards)) == 1:
            assert set(result.advantages) == {0.0}


def test_beside_a_large_offset_advantages_add_up_to_zero_too() -> None:
    offset = 0.1 * 2**24
    advantages = standardise([offset + cost for cost in (0.0, 0.0, 0.0, 0.3, 0.7)])
    assert math.fsum(advantages) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("combiner", ALL, ids=repr)
@settings(max_examples=60)
@given(
    costs=st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=2, max_size=6),
    right=st.lists(st.sampled_from([0, 1]), min_size=6, max_size=6),
    more=st.sampled_from([0.25, 8.0]),
)
def test_what_every_sibling_pays_more_changes_no_advantage(
    combiner: Combiner, costs: list[float], right: list[int], more: float
) -> None:
    group = group_of(*costs, outcomes=tuple(right[: len(costs)]))
    dearer = replace(group, episodes=[replace(e, cost=e.cost + more) for e in group.episodes])
    before, after = combiner([group])[0], combiner([dearer])[0]
    assert after.advantages == pytest.approx(before.advantages, abs=1e-6)


def test_the_lift_gives_equal_siblings_no_advantage() -> None:
    """A right sibling that is lifted raises its own group's mean; the groups beside it must not feel that."""
    lifted = group_of(0.01, 0.01, 0.01, 50.0, 0.0, outcomes=(1, 1, 1, 1, 0), outcome=0.1, cost=1)
    equal = group_of(0.2, 0.2, 0.2, outcome=0.1, cost=1)
    first, second = GDPO()([lifted, equal])
    assert sum(first.rewards) > 0.1
    assert second.advantages == (0.0, 0.0, 0.0)
    assert math.fsum(first.advantages) == pytest.approx(0, abs=1e-12)
    assert max(first.advantages) > 0 > min(first.advantages)


@pytest.mark.parametrize("combiner", ALL, ids=repr)
@pytest.mark.parametrize(
    ("one", "other"), [(0.1 + 0.2, 0.3), (1 / 3, math.nextafter(1 / 3, 1)), (1e9, math.nextafter(1e9, 2e9))]
)
def test_a_difference_of_one_rounding_is_none(combiner: Combiner, one: float, other: float) -> None:
    (result,) = combiner([group_of(one, other)])
    assert result.rewards[0] == pytest.approx(result.rewards[1], rel=1e-9)
    assert result.advantages == (0.0, 0.0)


@pytest.mark.parametrize("combiner", [GDPO(informative=True), MinMaxDot(informative=True)], ids=repr)
def test_a_difference_of_one_rounding_is_no_information(combiner: Combiner) -> None:
    assert combiner([group_of(0.1 + 0.2, 0.3)])[0].reason == "uninformative"


def test_terms_that_cancel_leave_no_signal() -> None:
    """0.3 · z of one component against the other's: what is left of them is rounding."""
    episodes = [EpisodeComponents(1, cost, latency) for cost, latency in ((0.1, 7.0), (0.2, 4.0), (0.3, 1.0))]
    (result,) = GDPO()([GroupComponents(episodes, {"cost": 0.3, "latency": 0.3}, ())])
    assert result.advantages == (0.0, 0.0, 0.0)


def test_standardise_keeps_the_smallest_numbers_apart() -> None:
    assert standardise([5e-324, 0.0]) == pytest.approx((2**-0.5, -(2**-0.5)))
    assert standardise([1e100, -1e100]) == pytest.approx((2**-0.5, -(2**-0.5)))
