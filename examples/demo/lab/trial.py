"""One trial of the demo's recipe in one process: `python examples/demo/lab/trial.py [--steps N] [--seed S] …`.

What is not given comes from training.yaml. Prints the batch while it learns, and every suite at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM

DEMO = Path(__file__).parents[1]
sys.path.insert(0, str(DEMO.parent))

from demo.lab.routing import Choice, Instance, Recipe, Score, Trial, best_alone  # noqa: E402
from demo.lab.tiny import Tiny  # noqa: E402
from demo.lab.world import DemoWorld, load_world  # noqa: E402

from toolorchestra.ledger.ledger import MAX_REFILL  # noqa: E402
from toolorchestra.policy.renderer import Renderer  # noqa: E402

COST_SHARE = 0.30
FAR = 1 << 40
"""Instances of the warm start are drawn far from those of the reinforcement learning."""


def recipe_of(world: DemoWorld, given: argparse.Namespace) -> Recipe:
    """The YAML's recipe, but for what the command line says."""
    spec, settings = world.training.spec, world.settings
    assert spec.warm_start is not None
    algorithm, weights = spec.algorithm, spec.reward.weights
    return Recipe(
        combiner=settings.rewarding.combiner,
        weights={name: float(getattr(weights, name)) for name in ("outcome", "cost", "latency")},
        steps=given.steps or algorithm.steps,
        groups=algorithm.groups_per_step,
        siblings=algorithm.group_size,
        rate=given.rate or settings.step.lr,
        entropy=settings.step.entropy_coefficient if given.entropy is None else given.entropy,
        kl=settings.step.kl_coefficient if given.kl is None else given.kl,
        staleness=algorithm.max_staleness if given.staleness is None else given.staleness,
        max_tokens=spec.rollout.max_response_tokens,
        draws=1 if algorithm.filters.when_short == "Shrink" else 1 + MAX_REFILL,
        warm_steps=spec.warm_start.steps if given.warm_steps is None else given.warm_steps,
        warm_rate=float(spec.warm_start.learning_rate),
        warm_batch=spec.warm_start.batch_size,
    )


def show(tag: str, name: str, instances: Sequence[Instance], choices: Sequence[Choice], trial: Trial) -> bool:
    """Print a suite's line; whether it clears both bars."""
    score, (best, best_score) = Score.of(choices), best_alone(instances, trial.judge)
    share = score.usd / best_score.usd
    passed = score.accuracy >= best_score.accuracy and share <= COST_SHARE
    valid = sum(c.pool is not None for c in choices) / len(choices)
    print(
        f"{tag} {name}: accuracy {score.accuracy:.3f} (best expert {best} {best_score.accuracy:.3f}), "
        f"cost {share:.1%} of it, valid {valid:.3f}: {'pass' if passed else 'miss'}",
        flush=True,
    )
    return passed


def show_choices(instances: Sequence[Instance], choices: Sequence[Choice]) -> None:
    by_topic: dict[str, Counter[str]] = defaultdict(Counter)
    for (task, _), choice in zip(instances, choices, strict=True):
        by_topic[task.topic][choice.pool or "no call"] += 1
    for topic, counts in sorted(by_topic.items()):
        print(f"    {topic}: {', '.join(f'{pool} {n}' for pool, n in counts.most_common())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=DEMO / "base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=20, help="steps between evaluations on the first suite")
    for name in ("rate", "entropy", "kl"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("steps", "staleness", "warm-steps"):
        parser.add_argument(f"--{name}", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    world = load_world(DEMO)
    tiny = Tiny(Qwen3ForCausalLM.from_pretrained(given.base, dtype=torch.float32))
    recipe = recipe_of(world, given)
    print(recipe)
    trial = Trial(
        tiny,
        Renderer.load(given.base),
        recipe=recipe,
        instances=lambda n: world.instance(given.seed, n),
        judge=world.outcome,
        seed=given.seed,
    )
    suites = {suite.name: world.held_out(suite, seed=given.seed) for suite in world.settings.suites}
    first = next(iter(suites))
    began = time.monotonic()
    loss = trial.warm_start(lambda n: world.instance(given.seed, FAR + n))
    print(f"warm start: loss {loss:.3f}, {time.monotonic() - began:.0f} s")
    initial = trial.evaluate(suites[first])
    show("initial", first, suites[first], initial, trial)
    show_choices(suites[first], initial)
    began = time.monotonic()
    schedule = replace(world.settings.schedule, peak=recipe.rate, steps=recipe.steps)
    for step in range(1, recipe.steps + 1):
        trial.recipe = replace(recipe, rate=schedule.rate(step - 1))
        found = trial.step()
        if step % 5 == 0:
            line = " ".join(f"{k} {v * 1e6:.0f}u" if k == "usd" else f"{k} {v:.3f}" for k, v in found.items())
            print(f"step {step}: {line} ({time.monotonic() - began:.0f} s)", flush=True)
        if step % given.every == 0 and step < recipe.steps:
            show(f"step {step}", first, suites[first], trial.evaluate(suites[first]), trial)
    passed = []
    for name, instances in suites.items():
        choices = trial.evaluate(instances)
        passed.append(show("final", name, instances, choices, trial))
        show_choices(instances, choices)
    raise SystemExit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
