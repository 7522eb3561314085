"""Positive controls (a)-(d) of docs/demo.md: what the recipe must be able to learn before the whole system is blamed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from demo.lab.controls import Instances, cheapest, matching, small_demo
from demo.lab.routing import Judge, Recipe, Score, Trial, best_alone
from demo.lab.tiny import Tiny
from demo.lab.world import DemoWorld, alias_words, load_world
from toolorchestra.policy.renderer import Renderer
from toolorchestra.rewards.gdpo import GDPO
from transformers import Qwen3ForCausalLM

DEMO = Path(__file__).parents[3] / "examples" / "demo"
BASE = DEMO / "base"
HELD_OUT = 200


@pytest.fixture(scope="module")
def world() -> DemoWorld:
    torch.set_num_threads(1)
    return load_world(DEMO)


def learn(instances: Instances, judge: Judge, *, steps: int, cost: float, warm_steps: int) -> Trial:
    recipe = Recipe(
        combiner=GDPO(informative=True, min_range={"cost": 3e-5}),
        weights={"outcome": 1.0, "cost": cost},
        steps=steps,
        groups=8,
        siblings=16,
        warm_steps=warm_steps,
        warm_batch=16,
    )
    tiny = Tiny(Qwen3ForCausalLM.from_pretrained(BASE, dtype=torch.float32))
    trial = Trial(tiny, Renderer.load(BASE), recipe=recipe, instances=instances, judge=judge, seed=0)
    trial.warm_start(lambda n: instances(1_000_000 + n))
    for _ in range(steps):
        trial.step()
    return trial


def accuracy(trial: Trial, instances: Instances) -> float:
    return Score.of(trial.evaluate([instances(n) for n in range(HELD_OUT)])).accuracy


@pytest.mark.parametrize("make", [cheapest, matching])
def test_what_is_right_by_the_prompt_alone_is_learned(
    world: DemoWorld, make: Callable[..., tuple[Instances, Judge]]
) -> None:
    """(a) the cheapest expert is right; (b) topics and descriptions match arbitrarily."""
    words = alias_words(world)
    trial = learn(*make(world, words, seed=0), steps=STEPS[make], cost=0.0, warm_steps=10)
    fresh, _ = make(world, words, seed=0, held_out=True)
    assert accuracy(trial, fresh) >= 0.95


STEPS = {cheapest: 30, matching: 20}


def test_routing_holds_under_unseen_aliases_and_prices(world: DemoWorld) -> None:
    """(c) four of the demo's topics and experts; (d) the same under aliases and prices that were never seen."""
    trial = learn(*small_demo(world, seed=0), steps=25, cost=0.3, warm_steps=15)
    for suite in ("held-out", "unseen-aliases", "unseen-prices"):
        fresh, judge = small_demo(world, seed=0, suite=suite)
        instances = [fresh(n) for n in range(HELD_OUT)]
        score, (_, best) = Score.of(trial.evaluate(instances)), best_alone(instances, judge)
        assert score.accuracy >= best.accuracy, suite
        assert score.usd <= 0.30 * best.usd, suite
