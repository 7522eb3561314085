"""Who is the best expert where not everyone was scored on every task, and what the bars then compare."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.synthetic_traces import VIEW
from toolorchestra.evaluation.acceptance import Criterion, acceptance
from toolorchestra.evaluation.attempt import Attempt
from toolorchestra.evaluation.baselines import best_expert
from toolorchestra.evaluation.evaluate import evaluate_suite
from toolorchestra.evaluation.report import headline
from toolorchestra.rewards.registry import RewardConfig

CONFIG = RewardConfig(combiner="GDPO", weights={"outcome": 1, "cost": 0.3})
EXPERTS = {e.pool: e for e in VIEW.experts}


def attempt(task: int, system: str, *, right: bool | None, usd: float = 1.0, shown: Collection[str] = ()) -> Attempt:
    experts = tuple(EXPERTS[pool] for pool in EXPERTS if not shown or pool in shown)
    return Attempt(
        key=f"t{task}",
        topic="sums",
        outcome=None if right is None else float(right),
        nominal_usd=usd,
        actual_usd=usd,
        service_seconds=1.0,
        wall_seconds=1.0,
        calls={},
        turns=1,
        ending="answered" if right is not None else "expert_unavailable",
        answer="a",
        view=VIEW.model_copy(update={"experts": experts}),
    )


def alone(accuracy: Mapping[str, float], *, tasks: int = 300) -> dict[str, list[Attempt]]:
    """Every expert on every task, right on the first share of them."""
    return {
        f"always:{pool}": [attempt(t, pool, right=t < share * tasks) for t in range(tasks)]
        for pool, share in accuracy.items()
    }


def unscored(attempts: list[Attempt], *tasks: int) -> list[Attempt]:
    lost = {f"t{task}" for task in tasks}
    return [attempt(int(a.key[1:]), "", right=None) if a.key in lost else a for a in attempts]


def test_one_unscored_task_in_300_does_not_make_the_weak_one_the_best() -> None:
    systems = alone({"generalist": 0.943, "counter": 0.377, "sorter": 0.5})
    systems["always:generalist"] = unscored(systems["always:generalist"], 17)
    assert best_expert(systems) == "generalist"
    one_lost = {**systems, "always:generalist": systems["always:generalist"][1:]}
    assert best_expert(one_lost, lost={"always:generalist": 1}) == "generalist"


def test_an_expert_that_was_scored_on_too_few_tasks_is_not_the_best() -> None:
    systems = alone({"generalist": 1.0, "counter": 0.4})
    hard = [*range(60, 300)]
    assert best_expert({**systems, "always:generalist": unscored(systems["always:generalist"], *hard)}) == "counter"
    assert best_expert({**systems, "always:generalist": systems["always:generalist"][:60]}) == "counter"
    out = {name: unscored(attempts, *hard) for name, attempts in systems.items()}
    assert best_expert(out) is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), fewest=st.integers(1, 4))
def test_the_best_expert_of_random_views_is_the_best(seed: int, fewest: int) -> None:
    """Each task shows some of the experts, and now and then one of them is out."""
    rng = random.Random(seed)
    accuracy = {"generalist": 0.95, "counter": 0.6, "sorter": 0.4, "speller": 0.3}
    systems: dict[str, list[Attempt]] = {f"always:{pool}": [] for pool in accuracy}
    for task in range(300):
        shown = rng.sample(sorted(accuracy), k=rng.randint(fewest, 4))
        for pool in shown:
            right = None if rng.random() < 0.02 else rng.random() < accuracy[pool]
            systems[f"always:{pool}"].append(attempt(task, pool, right=right, shown=shown))
    assert best_expert(systems) == "generalist"


def bars(systems: Mapping[str, list[Attempt]]) -> tuple[dict[str, Criterion], dict[str, object]]:
    result = evaluate_suite("heldOut", systems, config=CONFIG, seed=0)
    report = {
        "evaluations": result.rows,
        "evaluationDetails": result.details,
        "comparisons": result.comparisons,
        "suites": [result.suite],
    }
    return {criterion.bar: criterion for criterion in acceptance(report)}, report


def test_the_bars_compare_on_common_tasks() -> None:
    """The best expert was out on 20 easy tasks: on the others the policy is as good, at a quarter of the cost."""
    systems = alone({"generalist": 0.9, "counter": 0.2})
    systems["always:generalist"] = unscored(systems["always:generalist"], *range(20))
    systems["policy"] = [attempt(t, "policy", right=t < 270, usd=10 if t < 20 else 0.25) for t in range(300)]
    found, report = bars(systems)
    accuracy = found["policy's accuracy, at least bestExpert's"]
    assert (accuracy.value, accuracy.threshold) == (250 / 280, 250 / 280)
    assert accuracy.passed
    assert found["policy's cost over bestExpert's"].value == pytest.approx(0.25)
    assert found["always:counter misses accuracy or cost"].passed
    assert "generalist, in 89.3%" in headline(report)
    assert "on the 280 tasks that both were scored on" in headline(report)


def test_without_a_best_expert_the_bars_are_not_measured() -> None:
    systems = {name: unscored(a, *range(100)) for name, a in alone({"generalist": 0.9, "counter": 0.2}).items()}
    systems["policy"] = [attempt(t, "policy", right=True) for t in range(300)]
    found, report = bars(systems)
    for bar in ("policy's accuracy, at least bestExpert's", "policy's cost over bestExpert's"):
        assert (found[bar].value, found[bar].passed) == (None, False)
    assert headline(report) == "On 300 tasks of heldOut the policy is right in 100.0% for $1 a task."
