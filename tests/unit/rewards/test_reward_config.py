"""What of a training's `spec` the rewards read, with its defaults and units, and what a combiner is given of it."""

from __future__ import annotations

from typing import Any

import pytest

from toolorchestra.rewards.component import EpisodeComponents, GroupComponents
from toolorchestra.rewards.gdpo import GDPO
from toolorchestra.rewards.minmax_dot import MinMaxDot
from toolorchestra.rewards.registry import (
    CENTRED,
    COMBINERS,
    RewardConfig,
    build_combiner,
    check_weights,
    reward_config,
)
from toolorchestra.rewards.weighted_sum import WeightedSum

WHOLE: dict[str, Any] = {
    "reward": {
        "combiner": "MinMaxDot",
        "weights": {"outcome": "1", "cost": "0.5", "latency": None},
        "latency": "WallClock",
        "minRange": {"costUSD": "0.01", "latencyMilliseconds": 250},
        "gate": False,
    },
    "algorithm": {"filters": {"minRewardStd": "0.2", "informative": True}},
}


def test_every_field_is_read_in_its_unit() -> None:
    assert reward_config(WHOLE) == RewardConfig(
        combiner="MinMaxDot",
        weights={"outcome": 1.0, "cost": 0.5},
        latency="WallClock",
        min_range={"cost": 0.01, "latency": 0.25},
        min_reward_std=0.2,
        informative=True,
        gate=False,
    )


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"reward": None, "algorithm": None},
        {"reward": {"weights": None, "minRange": None}, "algorithm": {"filters": None}},
        {"reward": {"weights": {"cost": None}, "minRange": {"costUSD": None}}},
    ],
)
def test_what_is_not_said_has_its_default(spec: dict[str, Any]) -> None:
    found = reward_config(spec)
    assert found == RewardConfig()
    assert (found.combiner, dict(found.weights), found.latency) == ("GDPO", {"outcome": 1.0}, "Service")
    assert (dict(found.min_range), found.min_reward_std, found.informative, found.gate) == ({}, 0.1, False, True)


def test_no_threshold_is_said_by_null() -> None:
    assert reward_config({"algorithm": {"filters": {"minRewardStd": None}}}).min_reward_std is None


RANGE = {"cost": 0.5}


@pytest.mark.parametrize(
    ("name", "combiner"),
    [
        ("GDPO", GDPO(min_range=RANGE, informative=True, gate=False)),
        ("MinMaxDot", MinMaxDot(min_range=RANGE, min_reward_std=0.3, informative=True)),
        ("WeightedSum", WeightedSum(min_range=RANGE, min_reward_std=0.3, informative=True)),
    ],
)
def test_a_combiner_is_given_its_options(name: Any, combiner: GDPO | MinMaxDot | WeightedSum) -> None:
    config = RewardConfig(combiner=name, min_range=RANGE, min_reward_std=0.3, informative=True, gate=False)
    assert build_combiner(config) == combiner


def test_a_centred_combiner_s_rewards_add_up_to_nothing() -> None:
    pair = GroupComponents(
        episodes=[EpisodeComponents(1, 0, 0), EpisodeComponents(0, 0, 0)], weights={"outcome": 1}, tools=()
    )
    sums = {name: sum(build_combiner(RewardConfig(combiner=name))([pair])[0].rewards) for name in COMBINERS}
    assert {name for name, total in sums.items() if total == pytest.approx(0)} == CENTRED


def test_an_unknown_combiner_is_refused() -> None:
    with pytest.raises(ValueError, match="combiner: 'Best' is not one of MinMaxDot, GDPO, WeightedSum"):
        RewardConfig(combiner="Best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("combiner", "weight", "refused"),
    [
        ("GDPO", 1.0, ""),
        ("GDPO", 1.01, "is above 1;"),
        ("MinMaxDot", 1.01, "is above 1;"),
        ("WeightedSum", 1e9, ""),
        ("WeightedSum", 1.1e9, r"is above 1e\+09"),
        ("WeightedSum", float("inf"), "not finite"),
        ("WeightedSum", float("nan"), "not finite"),
        ("WeightedSum", -0.5, "is below 0"),
        ("GDPO", 0.0, "all are 0"),
    ],
)
def test_a_weight_has_its_bounds(combiner: Any, weight: float, refused: str) -> None:
    if not refused:
        check_weights({"cost": weight}, combiner=combiner)
        check_weights({"cost": weight, "latency": 0.0}, combiner=combiner)
        return
    with pytest.raises(ValueError, match=refused):
        check_weights({"cost": weight}, combiner=combiner)
