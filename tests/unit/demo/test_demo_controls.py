"""Positive controls (a)-(d) of docs/demo.md: what the recipe must be able to learn before the system is blamed.

`CONTROL_SEED` draws other instances and samples (default 0): a control that holds for one seed alone is none.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from demo.lab.controls import Instances, by_price, cheapest, matching, small_demo
from demo.lab.routing import Judge, Recipe, Router, Score, Trial, best_alone
from demo.lab.tiny import Tiny
from demo.lab.world import DemoWorld, alias_words, load_world
from transformers import Qwen3ForCausalLM

from toolorchestra.policy.renderer import Renderer
from toolorchestra.rewards.gdpo import GDPO

DEMO = Path(__file__).parents[3] / "examples" / "demo"
BASE = DEMO / "base"
SEED = int(os.environ.get("CONTROL_SEED", "0"))
HELD_OUT = 200
COST_SHARE = 0.30
FAR = 1_000_000
"""Instances of the warm start are drawn far from those of the reinforcement learning."""


@pytest.fixture(scope="module")
def world() -> DemoWorld:
    torch.set_num_threads(1)
    return load_world(DEMO)


def warm(instances: Instances, judge: Judge, recipe: Recipe, *, router: Router | None = None) -> Trial:
    """The base after its warm start, before any reward."""
    tiny = Tiny(Qwen3ForCausalLM.from_pretrained(BASE, dtype=torch.float32))
    trial = Trial(tiny, Renderer.load(BASE), recipe=recipe, instances=instances, judge=judge, seed=SEED)
    trial.warm_start(lambda n: instances(FAR + n), router=router)
    return trial


def learn(trial: Trial) -> list[dict[str, float]]:
    return [trial.step() for _ in range(trial.recipe.steps)]


def score(trial: Trial, instances: Instances) -> Score:
    return Score.of(trial.evaluate([instances(n) for n in range(HELD_OUT)]))


@pytest.mark.long
def test_the_cheapest_is_learned(world: DemoWorld) -> None:
    """(a) whatever the task and the descriptions, the lowest price is right."""
    words = alias_words(world)
    recipe = Recipe(
        combiner=GDPO(informative=True),
        weights={"outcome": 1.0},
        steps=12,
        groups=8,
        rate=3e-4,
        entropy=0.0,
        warm_steps=120,
        warm_rate=1e-3,
        warm_batch=16,
    )
    trial = warm(*cheapest(world, words, seed=SEED), recipe, router=by_price)
    steps = learn(trial)
    fresh, _ = cheapest(world, words, seed=SEED, held_out=True)
    found = score(trial, fresh)
    print(f"control a, seed {SEED}: {found.accuracy:.3f} right; first step {steps[0]['right']:.2f}")
    assert steps[0]["right"] <= 0.55, "the warm start must not say which price is wanted"
    assert found.accuracy >= 0.95


def test_an_arbitrary_match_of_topic_and_description_is_learned(world: DemoWorld) -> None:
    """(b) two topics, two experts; nothing but the reward says which suits which."""
    words = alias_words(world)
    recipe = Recipe(
        combiner=GDPO(informative=True),
        weights={"outcome": 1.0},
        steps=30,
        groups=8,
        rate=3e-4,
        entropy=0.0,
        warm_steps=10,
        warm_batch=16,
    )
    trial = warm(*matching(world, words, seed=SEED), recipe)
    learn(trial)
    fresh, _ = matching(world, words, seed=SEED, held_out=True)
    found = score(trial, fresh)
    print(f"control b, seed {SEED}: {found.accuracy:.3f} right")
    assert found.accuracy >= 0.95


@dataclass(frozen=True)
class Routed:
    """Scores of the warm start and of what it became, and the best single expert's, by suite."""

    before: dict[str, Score]
    after: dict[str, Score]
    best: dict[str, Score]


@pytest.fixture(scope="module")
def routed(world: DemoWorld) -> Routed:
    """One training serves (c) and (d)."""
    recipe = Recipe(
        combiner=GDPO(informative=True, min_range={"cost": 3e-5}),
        weights={"outcome": 1.0, "cost": 0.6},
        steps=60,
        groups=12,
        rate=3e-4,
        entropy=0.0,
        warm_steps=40,
        warm_batch=24,
    )
    trial = warm(*small_demo(world, seed=SEED), recipe)
    suites = {s.name: small_demo(world, seed=SEED, suite=s.name) for s in world.settings.suites}
    before = {name: score(trial, fresh) for name, (fresh, _) in suites.items()}
    learn(trial)
    after = {name: score(trial, fresh) for name, (fresh, _) in suites.items()}
    best = {name: best_alone([fresh(n) for n in range(HELD_OUT)], judge)[1] for name, (fresh, judge) in suites.items()}
    for name, found in after.items():
        print(
            f"controls c and d, seed {SEED}, {name}: {found.accuracy:.3f} right at {found.usd / best[name].usd:.0%} of"
            f" the best expert's cost; that one {best[name].accuracy:.3f}, the warm start {before[name].accuracy:.3f}"
        )
    return Routed(before, after, best)


def clears(found: Score, best: Score) -> bool:
    return found.accuracy >= best.accuracy and found.usd <= COST_SHARE * best.usd


@pytest.mark.long
def test_four_topics_and_four_experts_with_prices_are_routed(routed: Routed) -> None:
    """(c) the demo's bars, which the warm start misses."""
    assert clears(routed.after["held-out"], routed.best["held-out"]), routed
    assert not clears(routed.before["held-out"], routed.best["held-out"]), routed


@pytest.mark.long
@pytest.mark.parametrize("suite", ["unseen-aliases", "unseen-prices"])
def test_routing_holds_under_what_was_never_seen(routed: Routed, suite: str) -> None:
    """(d) the policy of (c) under aliases, and under prices, that no training episode had."""
    assert clears(routed.after[suite], routed.best[suite]), routed
    assert not clears(routed.before[suite], routed.best[suite]), routed
