"""Graders: what is right, what is wrong, and what is a failure of the grader itself."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.tasks.exact import MAX_WORDS
from toolorchestra.tasks.grader import GRADERS, Grade, GraderFailure, check_grader, grade
from toolorchestra.tasks.reasoning_gym import ReasoningGymSource
from toolorchestra.tasks.source import SourceError
from toolorchestra.tasks.task import GraderSpec, Task


def task(type: str, instruction: str = "?", **data: Any) -> Task:
    return Task(id="t", instruction=instruction, grader=GraderSpec(type=type, data=data), source="s")


@pytest.mark.parametrize(
    ("right", "given_answer", "outcome"),
    [
        ("Paris", " paris. ", 1),
        ("Paris", '"Paris"', 1),
        ("The Hague", "hague", 1),
        ("Ångström", "A\N{COMBINING RING ABOVE}ngstr\N{LATIN SMALL LETTER O}\N{COMBINING DIAERESIS}m", 1),
        ("New  York", "new york", 1),
        ("5", "-5", 0),
        ("1.5", "15", 0),
        ("Paris", "Paris or London", 0),
        ("Paris", "", 0),
        ("Paris", "  ", 0),
        (["UK", "United Kingdom"], "united kingdom", 1),
        (["UK", "United Kingdom"], "France", 0),
    ],
)
def test_exact_match(right: str | list[str], given_answer: str, outcome: float) -> None:
    assert grade(task("ExactMatch", answer=right), given_answer).outcome == outcome


def test_long_answers_are_wrong_even_where_they_match() -> None:
    words = " ".join(["word"] * (MAX_WORDS + 1))
    assert grade(task("ExactMatch", answer=words), words).outcome == 0
    assert grade(task("ExactMatch", answer=words[5:]), words[5:]).outcome == 1


@pytest.mark.parametrize(
    ("data", "given_answer", "outcome"),
    [
        ({"answer": "1234.5"}, "1,234.50", 1),
        ({"answer": "1234.5"}, "$1,234.5", 1),
        ({"answer": 12}, "12%", 1),
        ({"answer": "0.5"}, "1/2", 1),
        ({"answer": "-3"}, "\N{MINUS SIGN}3", 1),
        ({"answer": "1000"}, "1e3", 1),
        ({"answer": "1000"}, "1001", 0),
        ({"answer": "1000", "absoluteTolerance": "1"}, "1001", 1),
        ({"answer": "-1000", "relativeTolerance": "0.01"}, "-1010", 1),
        ({"answer": "-1000", "relativeTolerance": "0.01"}, "-1011", 0),
        ({"answer": "1"}, "one", 0),
        ({"answer": "1"}, "", 0),
        ({"answer": "1"}, "nan", 0),
        ({"answer": "1"}, "inf", 0),
        ({"answer": "1"}, "1/0", 0),
        ({"answer": "1"}, "1e999999999", 0),
    ],
)
def test_numeric(data: dict[str, Any], given_answer: str, outcome: float) -> None:
    assert grade(task("Numeric", **data), given_answer).outcome == outcome


@pytest.mark.parametrize("type", ["ExactMatch", "Numeric"])
@pytest.mark.parametrize(
    "answer",
    [
        *("9" * 100_000, "0." + "1" * 99_000, "1e999999999", "1/" + "3" * 99_000, "1_" * 40_000 + "1"),
        *("a" + "\u0301\u0316" * 49_000, "a" + "\u0301" * 49_000 + "\u0316" * 49_000, "\ufdfa" * 100_000),
        *("9**9**9", " " * 100_000, "the " * 25_000, "," * 100_000, "x" * 10_000_000),
    ],
    ids=range(13),
)
def test_comparing_takes_linear_time(type: str, answer: str) -> None:
    began = time.process_time()
    assert grade(task(type, answer="7"), answer) == Grade(0.0, 0.0)
    assert time.process_time() - began < 2


def test_marks_in_numbers_that_no_language_writes_are_compared_as_they_are() -> None:
    many = "a" + "\u0301\u0316" * 100
    assert grade(task("ExactMatch", answer=many), many).outcome == 1


@given(st.text(), st.sampled_from(["ExactMatch", "Numeric"]))
def test_any_text_can_be_graded(answer: str, kind: str) -> None:
    assert grade(task(kind, answer="7"), answer).outcome in (0.0, 1.0)


def test_no_answer_is_wrong() -> None:
    assert grade(task("ExactMatch", answer="x"), None).outcome == 0


def test_partial_credit_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        def __init__(self, score: float) -> None:
            self._score = score

        def check(self, data: Any) -> None: ...

        def score(self, task: Task, answer: str) -> float:
            return self._score

        def reference(self, data: Any) -> None: ...

    for score, outcome in ((0.5, 0), (0.98, 0), (0.99, 1), (1.0, 1)):
        monkeypatch.setitem(GRADERS, "Fixed", Fixed(score))
        result = grade(task("Fixed"), "x")
        assert (result.score, result.outcome) == (score, outcome)
    for score in (float("nan"), 1.5, -0.1):
        monkeypatch.setitem(GRADERS, "Fixed", Fixed(score))
        with pytest.raises(GraderFailure, match="outside"):
            grade(task("Fixed"), "x")


def test_failures_of_the_grader_are_not_outcomes() -> None:
    with pytest.raises(GraderFailure, match="no grader 'Psychic'; use one of ExactMatch"):
        grade(task("Psychic"), "x")
    with pytest.raises(GraderFailure, match="raised"):
        grade(task("ExactMatch", wrong="data"), "x")
    with pytest.raises(GraderFailure, match="needs a sandbox"):
        grade(task("ReasoningGym", dataset="chain_sum", entry={"answer": "1"}), "1")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (GraderSpec(type="Psychic"), "grader.type"),
        (GraderSpec(type="ExactMatch"), "grader.data.answer"),
        (GraderSpec(type="ExactMatch", data={"answer": "a", "x": 1}), "grader.data.x"),
        (GraderSpec(type="Numeric", data={"answer": "many"}), "grader.data.answer"),
        (GraderSpec(type="Numeric", data={"answer": "1e999999"}), "grader.data.answer"),
        (GraderSpec(type="Numeric", data={"answer": "1" * 5000}), "grader.data.answer"),
        (
            GraderSpec(type="Numeric", data={"answer": "1", "absoluteTolerance": "1e500"}),
            "grader.data.absoluteTolerance",
        ),
        (GraderSpec(type="ReasoningGym", data={"dataset": "boxnet", "entry": {"answer": None}}), "grader.data.entry"),
    ],
)
def test_specs_are_checked_before_use(spec: GraderSpec, field: str) -> None:
    problems = check_grader(spec)
    assert field in [where.removesuffix(".str") for where, _ in problems]
    assert check_grader(GraderSpec(type="ExactMatch", data={"answer": "a"})) == []


@pytest.fixture(scope="module")
def gym() -> ReasoningGymSource:
    datasets = ["chain_sum", "prime_factorization", "number_sorting"]
    return ReasoningGymSource(name="gym", datasets=datasets, size=31, seed=7, configs={"chain_sum": {"max_terms": 3}})


def test_reasoning_gym_is_deterministic_and_mixed_evenly(gym: ReasoningGymSource) -> None:
    assert len(gym) == 31
    again = ReasoningGymSource(
        name="gym",
        datasets=["chain_sum", "prime_factorization", "number_sorting"],
        size=310,
        seed=7,
        configs={"chain_sum": {"max_terms": 3}},
    )
    tasks = [gym.task(i) for i in range(31)]
    assert tasks == [again.task(i) for i in range(31)], "a larger source begins with the smaller one"
    assert [t.topic for t in tasks[:4]] == ["chain_sum", "prime_factorization", "number_sorting", "chain_sum"]
    assert tasks[3].id == "chain_sum/7/1"
    assert all(
        len(t.grader.data["entry"]["metadata"]["expression"].split()) <= 5 for t in tasks if t.topic == "chain_sum"
    )
    with pytest.raises(IndexError):
        gym.task(31)
    json.dumps([t.model_dump() for t in tasks])


@pytest.mark.parametrize(
    ("datasets", "configs", "message"),
    [
        (["chain_sums"], {}, "did you mean chain_sum"),
        (["chain_sum"], {"leg_counting": {}}, "configuration for leg_counting"),
        (["chain_sum"], {"chain_sum": {"terms": 3}}, "refuses its configuration"),
        (["chain_sum"], {"chain_sum": {"min_terms": 5, "max_terms": 2}}, "refuses its configuration"),
        (["chain_sum"], {"chain_sum": {"seed": 3}}, "set seed on the source"),
        ([], {}, "at least one dataset"),
    ],
)
def test_gym_sources_say_what_is_wrong(datasets: list[str], configs: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        ReasoningGymSource(name="gym", datasets=datasets, size=5, seed=1, configs=configs)
