"""Preferences from templates: deterministic, split, in aliases outside and pools inside."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.rewards.preferences import (
    TEMPLATES,
    WORDINGS,
    PreferenceKind,
    PreferenceSplit,
    TemplatePreferences,
    sample_preference,
)
from toolorchestra.rewards.registry import RewardConfig, build_combiner, task_weights
from toolorchestra.tools.view import ExpertView, InstanceView, Preference, Price


def expert(alias: str, pool: str, dollars: str, latency_ms: int) -> ExpertView:
    price = Price(output_usd_per_million_tokens=Decimal(dollars))
    return ExpertView(alias=alias, pool=pool, description="", price=price, latency_ms=latency_ms)


EXPERTS = (expert("apple", "local-7b", "1", 900), expert("river", "gpt", "20", 300), expert("stone", "coder", "3", 500))
VIEW = InstanceView(price_book="own", policy_price=Price(), experts=EXPERTS)


@given(seed=st.integers(0, 50), key=st.text(max_size=5), split=st.sampled_from(["train", "evaluation"]))
def test_a_preference_is_a_function_of_its_arguments(seed: int, key: str, split: PreferenceSplit) -> None:
    first = sample_preference(experts=EXPERTS, seed=seed, key=key, split=split, private=["local-7b"])
    again = sample_preference(experts=EXPERTS[::-1], seed=seed, key=key, split=split, private=["local-7b"])
    assert first == again
    assert first is not None
    assert all(0 <= w <= 1 for w in first.weights.values())
    assert first.weights["outcome"] == 1
    assert not any(e.pool in first.instruction for e in EXPERTS)


@pytest.mark.parametrize("kind", list(TEMPLATES))
def test_training_never_sees_an_evaluation_wording(kind: PreferenceKind) -> None:
    assert set(WORDINGS[kind]["train"]).isdisjoint(WORDINGS[kind]["evaluation"])

    def seen(split: PreferenceSplit) -> set[str]:
        drawn = (
            sample_preference(experts=EXPERTS, seed=0, key=str(i), split=split, kinds=[kind], private=["local-7b"])
            for i in range(60)
        )
        return {p.instruction for p in drawn if p is not None}

    assert seen("train")
    assert seen("train").isdisjoint(seen("evaluation"))


def test_avoid_rewards_the_others_and_names_the_alias() -> None:
    wish = sample_preference(experts=EXPERTS, seed=1, key="a", kinds=["avoid"])
    assert wish is not None
    avoided = [e for e in EXPERTS if e.pool not in wish.weights]
    assert len(avoided) == 1
    assert avoided[0].alias in wish.instruction


def test_private_names_only_what_runs_in_house() -> None:
    wish = sample_preference(experts=EXPERTS, seed=1, key="a", kinds=["private"], private=["local-7b"])
    assert wish is not None
    assert "apple" in wish.instruction
    assert wish.weights["local-7b"] == 1
    assert "gpt" not in wish.weights
    assert sample_preference(experts=EXPERTS, seed=1, key="a", kinds=["private"]) is None


def test_the_fraction_is_kept_and_the_same_instances_carry_one() -> None:
    source = TemplatePreferences(fraction=0.5, seed=3)
    views = [source.attach(VIEW, key=str(i)) for i in range(400)]
    assert 160 < sum(v.preference is not None for v in views) < 240
    assert views == [source.attach(VIEW, key=str(i)) for i in range(400)]
    assert TemplatePreferences(fraction=0, seed=3).attach(VIEW, key="0") is VIEW


def test_a_preference_replaces_the_runs_weights() -> None:
    config = RewardConfig(weights={"outcome": 1, "cost": 0.3})
    wish = Preference(instruction="", weights={"outcome": Decimal(1), "gpt": Decimal("0.5")})
    assert task_weights(config, wish) == {"outcome": 1.0, "gpt": 0.5}
    assert task_weights(config, None) == {"outcome": 1.0, "cost": 0.3}


@pytest.mark.parametrize("name", ["MinMaxDot", "GDPO", "WeightedSum"])
def test_every_name_builds_its_combiner(name: str) -> None:
    assert type(build_combiner(RewardConfig(combiner=name))).__name__ == name  # type: ignore[arg-type]


def test_a_weight_that_makes_no_sense_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"weights\.cost: -1"):
        RewardConfig(weights={"cost": -1})
    with pytest.raises(ValueError, match=r"weights\.cost: 2 is above 1"):
        RewardConfig(weights={"cost": 2})
    assert RewardConfig(combiner="WeightedSum", weights={"cost": 20}).weights["cost"] == 20
