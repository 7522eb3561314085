"""Baselines, rows, comparisons and gates on an invented evaluation whose truth is known."""

from __future__ import annotations

import pytest

from support.synthetic_traces import PRICES, TOPICS, VIEW, evaluation, knows, trace
from toolorchestra.evaluation.acceptance import acceptance
from toolorchestra.evaluation.attempt import Attempt, attempts_of
from toolorchestra.evaluation.baselines import best_expert, cascade, oracle, system_order, with_baselines
from toolorchestra.evaluation.evaluate import SuiteResult, evaluate_suite
from toolorchestra.evaluation.reward_scale import RewardScale, attempt_reward
from toolorchestra.rewards.registry import RewardConfig
from toolorchestra.rollout.trace import Ending

CONFIG = RewardConfig(combiner="GDPO", weights={"outcome": 1, "cost": 0.3})
TASKS = 320


@pytest.fixture(scope="module")
def systems() -> dict[str, list[Attempt]]:
    return {name: attempts_of(traces) for name, traces in evaluation(tasks=TASKS).items()}


@pytest.fixture(scope="module")
def result(systems: dict[str, list[Attempt]]) -> SuiteResult:
    return evaluate_suite("heldOut", systems, config=CONFIG, seed=3)


def attempt(*, pool: str = "generalist", usd: float, outcome: float | None = 1, answer: str = "a") -> Attempt:
    return Attempt(
        key="t",
        topic="t",
        outcome=outcome,
        nominal_usd=usd,
        actual_usd=usd,
        service_seconds=1.0,
        wall_seconds=1.0,
        calls={pool: 1},
        turns=1,
        ending="answered",
        answer=answer,
        view=VIEW,
    )


def test_the_oracle_is_right_whenever_some_expert_is_and_takes_the_cheapest_right_one() -> None:
    calls = {
        "generalist": attempt(usd=9),
        "counter": attempt(usd=2),
        "sorter": attempt(usd=1, outcome=0),
        "speller": attempt(usd=5),
    }
    assert oracle(calls).nominal_usd == 2
    none_right = {name: attempt(usd=a.nominal_usd, outcome=0) for name, a in calls.items()}
    assert oracle(none_right).nominal_usd == 1


def test_the_cascade_stops_at_agreement_and_pays_everyone_it_asked() -> None:
    calls = {
        "sorter": attempt(pool="sorter", usd=1, answer="7 ", outcome=1),
        "speller": attempt(pool="speller", usd=1, answer="8", outcome=0),
        "counter": attempt(pool="counter", usd=2, answer="7", outcome=1),
        "generalist": attempt(usd=9, answer="9", outcome=0),
    }
    agreed = cascade(calls)
    assert agreed is not None
    assert agreed.nominal_usd == 4
    assert agreed.right
    assert agreed.calls == {"sorter": 1, "speller": 1, "counter": 1}
    split = cascade({**calls, "counter": attempt(pool="counter", usd=2, answer="10", outcome=0)})
    assert split is not None
    assert split.nominal_usd == 13
    assert split.answer == "9"


def test_best_expert_takes_the_cheaper_one_of_a_tie() -> None:
    tied = {"always:counter": [attempt(usd=2)], "always:generalist": [attempt(usd=9)]}
    assert best_expert(tied) == "counter"
    assert best_expert({"policy": [attempt(usd=1)]}) is None


def test_an_unscored_trace_gives_way_to_its_redispatch_and_is_counted_where_none_came() -> None:
    lost = trace(task=1, pool="sorter", ending=Ending.EXPERT_UNAVAILABLE)
    again = trace(task=1, pool="sorter").model_copy(update={"issue": "demo.1.0.0.1"})
    (only,) = attempts_of([lost, again])
    assert only.outcome is not None
    suite = evaluate_suite("s", {"policy": attempts_of([lost, trace(task=2, pool="sorter")])}, config=CONFIG, seed=0)
    assert suite.rows[0]["tasks"] == 1
    assert suite.rows[0]["unscored"] == suite.details[0]["unscored"] == 1
    assert suite.details[0]["endings"] == {"expert_unavailable": 1, "answered": 1}


def test_every_task_that_a_system_was_not_scored_on_is_counted() -> None:
    """Also those that ended without a trace, and those of a system that was never scored."""
    tasks = 6
    out = Ending.EXPERT_UNAVAILABLE
    systems = {
        "always:counter": [
            trace(task=t, pool="counter", ending=out if t == 0 else Ending.ANSWERED) for t in range(tasks)
        ],
        "always:sorter": [trace(task=t, pool="sorter", ending=out) for t in range(2)],
        "policy": [trace(task=t, pool="sorter") for t in range(4)],
    }
    attempts = {name: attempts_of(traces) for name, traces in systems.items()}
    lost = {"always:sorter": 4, "policy": 2, "initialPolicy": 6}
    suite = evaluate_suite("s", attempts, config=CONFIG, seed=0, lost=lost)
    unscored = {row["system"]: (row["tasks"], row["unscored"]) for row in suite.rows}
    # No row of those that ask the cheapest expert, or drew others: they were never scored.
    assert unscored == {"policy": (4, 2), "bestExpert": (5, 1), "oracle": (5, 1), "always:counter": (5, 1)}
    assert suite.suite["unscored"] == {s: n for s, (_, n) in unscored.items()} | {
        "initialPolicy": 6,
        "always:sorter": 6,
    }
    nothing = evaluate_suite("s", {}, config=CONFIG, seed=0, lost={"policy": 3})
    assert (nothing.rows, nothing.suite["unscored"]) == ([], {"policy": 3})


def test_a_task_drawn_twice_makes_two_pairs() -> None:
    keys = [a.key for a in attempts_of([trace(task=1, pool="sorter", group=g) for g in (4, 9)])]
    assert keys == ["letter_counting-1", "letter_counting-1#2"]


def test_rows_have_exactly_the_agreed_keys_and_order(result: SuiteResult) -> None:
    assert [r["system"] for r in result.rows] == [
        "policy", "initialPolicy", "bestExpert", "cheapest", "random", "cascade", "oracle",
        "always:counter", "always:generalist", "always:sorter", "always:speller",
    ]  # fmt: skip
    for row in result.rows:
        assert set(row) == {
            "system", "suite", "tasks", "unscored", "accuracy", "accuracyInterval", "reward", "nominalUSDPerTask",
            "actualUSDPerTask", "serviceSecondsPerTask", "seed",
        }  # fmt: skip
        assert row["tasks"] == TASKS
        low, high = row["accuracyInterval"]
        assert low <= row["accuracy"] <= high
        assert row["seed"] == 3


def test_rows_say_what_the_experts_knew(result: SuiteResult) -> None:
    rows = {r["system"]: r for r in result.rows}
    truth = {p: sum(knows(p, t) for t in range(TASKS)) / TASKS for p in PRICES}
    for pool, accuracy in truth.items():
        assert rows[f"always:{pool}"]["accuracy"] == pytest.approx(accuracy)
    assert max(truth, key=lambda p: truth[p]) == "generalist"
    assert {**rows["bestExpert"], "system": ""} == {**rows["always:generalist"], "system": ""}
    some = sum(any(knows(p, t) for p in PRICES) for t in range(TASKS)) / TASKS
    assert rows["oracle"]["accuracy"] == pytest.approx(some)
    assert rows["cheapest"]["nominalUSDPerTask"] == pytest.approx(300e-6)


def test_a_run_baseline_is_not_replaced(systems: dict[str, list[Attempt]]) -> None:
    mine = [attempt(usd=0.5)]
    assert with_baselines({**systems, "random": mine}, best=None, seed=0)["random"] == mine


def test_reward_is_gated_clipped_and_bounded_by_the_weights() -> None:
    scale = RewardScale(usd=(1.0, 9.0), seconds=(1.0, 1.0))

    def reward(usd: float, outcome: float) -> float:
        return attempt_reward(attempt(usd=usd, outcome=outcome), config=CONFIG, scale=scale)

    assert reward(0.001, 0) == 0
    assert reward(1, 1) == pytest.approx(1.3)
    assert reward(9, 1) == pytest.approx(1.0)
    assert reward(5, 1) == pytest.approx(1.15)
    assert reward(0.1, 1) == pytest.approx(1.3)
    assert reward(100, 1) == pytest.approx(1.0)
    raw = RewardConfig(combiner="WeightedSum", weights={"outcome": 1, "cost": 2})
    assert attempt_reward(attempt(usd=0.25, outcome=0), config=raw, scale=scale) == pytest.approx(-0.5)


def test_comparisons_pair_the_policy_with_every_other_system(result: SuiteResult) -> None:
    rows = {r["system"]: r for r in result.rows}
    against = {(c["against"], c["measure"]): c for c in result.comparisons}
    assert {a for a, _ in against} == set(rows) - {"policy"}
    learned = against["initialPolicy", "reward"]
    assert learned["mean"] == pytest.approx(rows["policy"]["reward"] - rows["initialPolicy"]["reward"])
    assert 0 < learned["interval"][0] < learned["mean"] < learned["interval"][1]
    assert learned["tasks"] == TASKS


def report_of(result: SuiteResult) -> dict[str, object]:
    return {
        "evaluations": result.rows,
        "evaluationDetails": result.details,
        "comparisons": result.comparisons,
        "suites": [result.suite],
    }


def test_gates_name_every_bar_with_its_value(result: SuiteResult) -> None:
    bars = {g.bar: g for g in acceptance(report_of(result))}
    rows = {r["system"]: r for r in result.rows}
    assert bars["held-out tasks"].value == TASKS
    assert bars["datasets"].value == len(TOPICS)
    assert bars["dearest expert over cheapest"].value == pytest.approx(9)
    assert bars["experts that are best in every dataset"].value == 0
    share = bars["policy's cost over bestExpert's"]
    assert share.value == pytest.approx(rows["policy"]["nominalUSDPerTask"] / rows["bestExpert"]["nominalUSDPerTask"])
    assert not share.passed
    assert "MISS" in share.line()
    assert bars["policy's accuracy, at least bestExpert's"].passed
    assert bars["policy − initialPolicy in reward, lower end of 95%"].passed


def test_a_world_without_initial_policy_cannot_pass(systems: dict[str, list[Attempt]]) -> None:
    without = {name: a for name, a in systems.items() if name != "initialPolicy"}
    report = report_of(evaluate_suite("heldOut", without, config=CONFIG, seed=3))
    missed = {g.bar for g in acceptance(report) if g.value is None and not g.passed}
    assert missed == {"initialPolicy misses accuracy or cost", "policy − initialPolicy in reward, lower end of 95%"}
    assert acceptance({"evaluations": []}) == []


def test_systems_are_listed_in_the_words_order() -> None:
    names = ["always:b", "oracle", "policy", "always:a", "initialPolicy"]
    assert sorted(names, key=system_order) == ["policy", "initialPolicy", "oracle", "always:a", "always:b"]
