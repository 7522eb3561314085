"""Which version is the best: the report's reward decides, then the dollars."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.synthetic_traces import evaluation
from toolorchestra.controller.best import Score, score_attempts
from toolorchestra.evaluation.attempt import Attempt, attempts_of
from toolorchestra.evaluation.evaluate import evaluate_suite
from toolorchestra.rewards.registry import RewardConfig

CONFIG = RewardConfig(combiner="GDPO", weights={"outcome": 1, "cost": 0.3})
SYSTEMS: dict[str, list[Attempt]] = {name: attempts_of(traces) for name, traces in evaluation(tasks=40).items()}
ALONE = {name: attempts for name, attempts in SYSTEMS.items() if name.startswith("always:")}


def scored(attempts: list[Attempt]) -> Score:
    found = score_attempts(attempts, ALONE, config=CONFIG)
    assert found is not None
    return found


def test_the_score_is_the_reports() -> None:
    rows = evaluate_suite("heldOut", SYSTEMS, config=CONFIG, seed=0).rows
    for name in ("policy", "initialPolicy"):
        row = next(r for r in rows if r["system"] == name)
        said = scored(SYSTEMS[name]).as_dict()
        assert said == pytest.approx({key: row[key] for key in said})


def test_a_cheaper_one_with_the_same_reward_is_better() -> None:
    """Where nothing sets a scale, cost is no part of the reward; it still breaks ties."""
    dear = [replace(a, nominal_usd=a.nominal_usd * 2) for a in SYSTEMS["policy"]]
    cheap, dearer = (score_attempts(a, {}, config=CONFIG) for a in (SYSTEMS["policy"], dear))
    assert cheap is not None
    assert dearer is not None
    assert cheap.reward == dearer.reward
    assert cheap > dearer


def test_nothing_scored_is_no_score() -> None:
    assert score_attempts([replace(a, outcome=None) for a in SYSTEMS["policy"]], ALONE, config=CONFIG) is None


def test_a_version_that_was_scored_on_too_few_tasks_is_not_compared() -> None:
    """Also where its tasks were lost without a trace."""
    attempts = SYSTEMS["policy"]
    assert score_attempts(attempts[:36], ALONE, config=CONFIG, lost=4) is not None
    assert score_attempts(attempts[:35], ALONE, config=CONFIG, lost=5) is None
    out = [replace(a, outcome=None) for a in attempts[:5]]
    assert score_attempts([*out, *attempts[5:]], ALONE, config=CONFIG) is None


@given(st.sets(st.integers(0, len(SYSTEMS["policy"]) - 1)))
def test_one_more_right_answer_never_makes_a_version_worse(right: set[int]) -> None:
    attempts = [replace(a, outcome=float(i in right)) for i, a in enumerate(SYSTEMS["policy"])]
    for i, attempt in enumerate(attempts):
        if not attempt.right:
            better = [*attempts[:i], replace(attempt, outcome=1.0), *attempts[i + 1 :]]
            assert scored(better) > scored(attempts)
            return
