"""Positive controls (a)-(d) of docs/demo.md: what the recipe must be able to learn before the system is blamed."""

from pathlib import Path

import pytest
import torch
from demo.lab.controls import Instances, matching
from demo.lab.routing import Judge, Recipe, Score, Trial
from demo.lab.tiny import Tiny
from demo.lab.world import DemoWorld, alias_words, load_world
from transformers import Qwen3ForCausalLM

from toolorchestra.policy.renderer import Renderer
from toolorchestra.rewards.gdpo import GDPO

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


def test_an_arbitrary_match_of_topic_and_description_is_learned(world: DemoWorld) -> None:
    """(b) two topics, two experts; nothing but the reward says which suits which."""
    words = alias_words(world)
    trial = learn(*matching(world, words, seed=0), steps=20, cost=0.0, warm_steps=10)
    fresh, _ = matching(world, words, seed=0, held_out=True)
    assert accuracy(trial, fresh) >= 0.95
