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


def vector(cost: str, latency: str, **tools: str) -> dict[str, Decimal]:
    return {name: Decimal(w) for name, w in {"outcome": "1", "cost": cost, "latency": latency, **tools}.items()}


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("private", vector("0.3", "0", **{"local-7b": "1", "coder": "1"})),
        ("cheap", vector("1", "0")),
        ("fast", vector("0", "1")),
        ("avoid", vector("0.3", "0", **{"local-7b": "1", "coder": "1"})),
        ("prefer", vector("0.3", "0", gpt="1")),
    ],
)
def test_each_wish_is_these_weights(kind: PreferenceKind, weights: dict[str, Decimal]) -> None:
    """With another seed another expert is preferred or avoided; this one draws the same for both."""
    wish = sample_preference(experts=EXPERTS, seed=2, key="a", kinds=[kind], private=["local-7b", "coder"])
    assert wish is not None
    assert wish.weights == weights
    named = {"private": "stone and apple", "avoid": "river", "prefer": "river"}
    assert named.get(kind, "") in wish.instruction


def test_a_wish_needs_experts_that_differ() -> None:
    same = (expert("a", "one", "1", 100), expert("b", "two", "1", 100))
    drawn = {
        kind: sample_preference(experts=same, seed=0, key="a", kinds=[kind], private=["one", "two"])
        for kind in TEMPLATES
    }
    assert {kind for kind, wish in drawn.items() if wish} == {"avoid", "prefer"}
    assert all(sample_preference(experts=same[:1], seed=0, key="a", kinds=[kind]) is None for kind in TEMPLATES)


@pytest.mark.parametrize("kind", ["cheap", "fast"])
def test_two_experts_are_enough_to_differ(kind: PreferenceKind) -> None:
    assert sample_preference(experts=EXPERTS[:2], seed=0, key="a", kinds=[kind]) is not None


def test_three_names_are_a_list() -> None:
    four = (*EXPERTS, expert("tree", "outside", "1", 1))
    inside = [e.pool for e in EXPERTS]
    wish = sample_preference(experts=four, seed=1, key="a", kinds=["private"], private=inside)
    assert wish is not None
    assert "stone, river and apple" in wish.instruction


def test_a_kind_that_does_not_fit_makes_room_for_one_that_does() -> None:
    kinds: list[PreferenceKind] = ["private", "cheap"]
    wishes = [sample_preference(experts=EXPERTS, seed=0, key=str(i), kinds=kinds) for i in range(20)]
    assert all(wish is not None and wish.weights == vector("1", "0") for wish in wishes)


def test_what_is_attached_is_drawn_as_it_is_told() -> None:
    """Its private pools, its wordings, its kinds."""
    source = TemplatePreferences(
        fraction=1.0, seed=3, private=frozenset({"coder"}), split="evaluation", kinds=("private",)
    )
    told = {"experts": EXPERTS, "private": ["coder"], "split": "evaluation", "kinds": ["private"]}
    view = source.attach(VIEW, key="k")
    assert view.preference is not None
    assert view.preference == sample_preference(seed=3, key="k", **told)  # type: ignore[arg-type]
    assert view.preference.instruction == "My question must not leave our servers; stone may see it."
    assert view.model_copy(update={"preference": None}) == VIEW
    nobody = TemplatePreferences(fraction=1.0, seed=3, kinds=("private",))
    assert nobody.attach(VIEW, key="k") is VIEW


def test_an_other_seed_and_an_other_split_draw_others() -> None:
    def drawn(source: TemplatePreferences) -> list[Preference | None]:
        return [source.attach(VIEW, key=str(i)).preference for i in range(40)]

    base = drawn(TemplatePreferences(fraction=0.5, seed=3))
    assert base != drawn(TemplatePreferences(fraction=0.5, seed=4))
    carried = [wish is None for wish in base]
    other = drawn(TemplatePreferences(fraction=0.5, seed=3, split="evaluation"))
    assert carried != [wish is None for wish in other]


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
