"""What each combiner gives, on cases small enough to check by hand."""

from __future__ import annotations

import math
import time

import pytest

from toolorchestra.rewards.advantage import sample_std, standardise, standardise_groups
from toolorchestra.rewards.columns import is_constant, magnitude, spread
from toolorchestra.rewards.component import EpisodeComponents, GroupComponents, GroupReward
from toolorchestra.rewards.filters import GroupFilter
from toolorchestra.rewards.gdpo import GDPO
from toolorchestra.rewards.minmax_dot import MinMaxDot
from toolorchestra.rewards.weighted_sum import WeightedSum


def episode(outcome: int, cost: float = 0.0, latency: float = 0.0, **calls: int) -> EpisodeComponents:
    return EpisodeComponents(outcome=outcome, cost=cost, latency=latency, calls=calls)


def group(*episodes: EpisodeComponents, **weights: float) -> GroupComponents:
    return GroupComponents(episodes=episodes, weights=weights, tools=("web", "code"))


GOLDEN = group(episode(1, 0.02), episode(1, 0.10), episode(1, 0.05), episode(0, 0.01), outcome=1, cost=1)


def test_minmax_dot_gives_the_published_golden_case() -> None:
    (result,) = MinMaxDot()([GOLDEN])
    assert result.rewards == pytest.approx((1 + 8 / 9, 1.0, 1 + 5 / 9, 0.0))
    assert [round(r, 3) for r in result.rewards] == [1.889, 1.0, 1.556, 0.0]
    assert result.keep


def test_the_advantage_is_the_reward_in_sample_standard_deviations() -> None:
    (result,) = MinMaxDot()([GOLDEN])
    mean = sum(result.rewards) / 4
    std = math.sqrt(sum((r - mean) ** 2 for r in result.rewards) / 3)
    assert result.advantages == pytest.approx([(r - mean) / std for r in result.rewards])
    assert sample_std(result.rewards) == pytest.approx(std)


def test_standardise_knows_rounding_from_signal() -> None:
    assert standardise([0.1 + 0.2, 0.3, 0.3]) == (0.0, 0.0, 0.0)
    assert standardise([1e-180, 3e-180]) == pytest.approx((-(2**-0.5), 2**-0.5))
    assert standardise([5.0]) == (0.0,)
    assert standardise([]) == ()


@pytest.mark.parametrize("values", [[], [5.0]])
def test_fewer_than_two_values_do_not_spread(values: list[float]) -> None:
    assert (sample_std(values), spread(values)) == (0.0, 0.0)
    assert standardise_groups([values, [7.0, 7.0]]) == [(0.0,) * len(values), (0.0, 0.0)]
    assert magnitude(values) == sum(values)


@pytest.mark.parametrize(("least", "constant"), [(0.0, False), (0.5, False), (1.0, False), (1.01, True)])
def test_a_component_is_constant_where_it_spreads_less_than_its_range(least: float, constant: bool) -> None:
    assert is_constant("cost", [2.0, 3.0], min_range={"cost": least, "latency": 9.0}) is constant


def test_an_episode_that_never_used_a_tool_counts_with_zero_calls() -> None:
    (result,) = MinMaxDot()([group(episode(1, web=2), episode(1, web=1), episode(1), outcome=1, web=1)])
    assert result.rewards == pytest.approx((1.0, 0.5, 0.0))


def test_a_constant_component_adds_nothing() -> None:
    (result,) = MinMaxDot()([group(episode(1, 0.5), episode(1, 0.5), outcome=1, cost=1)])
    assert result.rewards == (0.0, 0.0)
    assert (result.keep, result.reason) == (False, "reward_std")


@pytest.mark.parametrize("combiner", [MinMaxDot(), GDPO(), WeightedSum()])
def test_a_single_sibling_never_trains(combiner: MinMaxDot | GDPO | WeightedSum) -> None:
    (result,) = combiner([group(episode(1, 0.5), outcome=1, cost=1)])
    assert (result.keep, result.reason, result.advantages) == (False, "too_few_scored", (0.0,))


@pytest.mark.parametrize("combiner", [MinMaxDot(informative=True), GDPO(informative=True)])
def test_a_group_with_no_right_sibling_has_no_signal(combiner: MinMaxDot | GDPO) -> None:
    (result,) = combiner([group(episode(0, 0.5), episode(0, 0.1), outcome=1, cost=1)])
    assert result.rewards == (0.0, 0.0)
    assert result.advantages == (0.0, 0.0)
    assert (result.keep, result.reason) == (False, "uninformative")


def test_weighted_sum_pays_a_wrong_episode_for_being_cheap() -> None:
    (result,) = WeightedSum()([group(episode(0, 0.01), episode(1, 2.0), outcome=1, cost=1)])
    assert result.rewards == pytest.approx((-0.01, -1.0))


def test_min_range_keeps_jitter_from_being_stretched() -> None:
    jitter = group(episode(1, 0.0200), episode(1, 0.0201), outcome=1, cost=0.5)
    (parity,) = MinMaxDot()([jitter])
    (damped,) = MinMaxDot(min_range={"cost": 0.001})([jitter])
    assert parity.rewards == pytest.approx((0.5, 0.0))
    assert damped.rewards == (0.0, 0.0)


def test_weighted_sum_levels_the_component_that_its_range_names() -> None:
    pair = group(episode(1, 0.2, 3.0), episode(1, 0.4, 5.0), outcome=1, cost=1, latency=1)
    (result,) = WeightedSum(min_range={"cost": 1.0})([pair])
    assert result.rewards == pytest.approx((1 - 0.3 - 3, 1 - 0.3 - 5))


def test_the_threshold_is_the_one_that_is_configured() -> None:
    pair = group(episode(1, 0.1), episode(1, 0.2), outcome=1, cost=1)
    std = 2**-0.5  # of the rewards 1 and 0
    for combiner in (MinMaxDot(min_reward_std=std * 1.01), WeightedSum(min_reward_std=0.08)):
        assert combiner([pair])[0].reason == "reward_std"
    for combiner in (MinMaxDot(min_reward_std=std * 0.99), WeightedSum(min_reward_std=None)):
        assert combiner([pair])[0].keep


def test_what_a_wrong_episode_cost_tells_something_where_it_counts() -> None:
    wrong = group(episode(0, 0.1), episode(0, 0.5), outcome=1, cost=1)
    assert WeightedSum(informative=True)([wrong])[0].keep
    assert not MinMaxDot(informative=True)([wrong])[0].keep


def test_gdpo_knows_its_range_by_name_and_no_threshold() -> None:
    near = group(episode(1, 0.1), episode(1, 0.3), outcome=1, cost=0.05)
    assert GDPO()([near])[0].keep
    (levelled,) = GDPO(min_range={"cost": 1.0}, informative=True)([near])
    assert (levelled.rewards, levelled.reason) == ((0.0, 0.0), "uninformative")


def test_defaults_of_a_filter_and_a_reward() -> None:
    assert GroupFilter() == GroupFilter(min_reward_std=0.1, informative=False, gated=True, min_range={})
    assert GroupReward((), (), keep=True).reason == ""


def test_informative_keeps_the_all_right_groups_that_the_threshold_drops() -> None:
    small = group(episode(1, 0.1), episode(1, 0.2), outcome=1, cost=0.05)
    assert MinMaxDot()([small])[0].reason == "reward_std"
    assert MinMaxDot(informative=True)([small])[0].keep
    assert MinMaxDot(informative=True, min_range={"cost": 0.2})([small])[0].reason == "uninformative"


def test_gdpo_measures_cost_over_right_siblings_only() -> None:
    with_wrong = group(episode(1, 0.1), episode(1, 0.3), episode(0, 99.0), cost=1)
    (result,) = GDPO()([with_wrong])
    assert result.rewards == pytest.approx((2**-0.5, 0.0, 0.0))  # −2^-0.5 for the dear one, lifted to the wrong one's 0
    (ungated,) = GDPO(gate=False)([with_wrong])
    assert ungated.rewards == pytest.approx((2**-0.5, -(2**-0.5), 0.0))


def test_gdpo_has_no_conditioned_component_with_one_right_sibling() -> None:
    (result,) = GDPO()([group(episode(1, 0.1), episode(0, 0.3), cost=1)])
    assert result.rewards == (0.0, 0.0)


def test_gdpo_lifts_a_dear_right_answer_to_the_best_wrong_one() -> None:
    episodes = [episode(1, 0.01) for _ in range(20)] + [episode(1, 50.0), episode(0, 0.001)]
    (result,) = GDPO()([group(*episodes, outcome=0.1, cost=1)])
    (ungated,) = GDPO(gate=False)([group(*episodes, outcome=0.1, cost=1)])
    assert ungated.rewards[20] < ungated.rewards[21]
    assert result.rewards[20] == result.rewards[21]


def test_gdpo_standardises_over_the_groups_that_train() -> None:
    mixed = group(episode(1), episode(0), outcome=1)
    steady = group(episode(1), episode(1), outcome=1)
    first, second, dropped = GDPO(informative=True)([mixed, mixed, steady])
    values = first.advantages + second.advantages
    assert sum(values) == pytest.approx(0)
    assert sample_std(values) == pytest.approx(1)
    assert (dropped.keep, dropped.advantages) == (False, (0.0, 0.0))


def test_ten_thousand_episodes_take_less_than_a_second() -> None:
    groups = [
        group(
            *(episode((g + i) % 3 > 0, 0.01 * i, 1.0 + i, web=i % 4, code=i % 3) for i in range(16)),
            outcome=1, cost=0.3, latency=0.2, web=0.1, code=0.1,
        )
        for g in range(625)
    ]  # fmt: skip
    for combiner in (MinMaxDot(), GDPO(), WeightedSum()):
        start = time.process_time()
        combiner(groups)
        assert time.process_time() - start < 1.0
