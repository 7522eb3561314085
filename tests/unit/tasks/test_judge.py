"""Judging: no text of an answer's ever runs, and what breaks a grader is wrong unless the grader is broken."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from toolorchestra.sandbox.evaluation import is_arithmetic
from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.program import Program
from toolorchestra.tasks.blocking_judge import BlockingJudge
from toolorchestra.tasks.grader import GRADERS, Grade, GraderFailure, reference_answer
from toolorchestra.tasks.judge import Judge
from toolorchestra.tasks.reasoning_gym import ReasoningGymSource
from toolorchestra.tasks.reference import References
from toolorchestra.tasks.task import GraderSpec, Task

on_one_loop = pytest.mark.asyncio(loop_scope="module")

EVALUATING = (
    *("countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication"),
    *("string_insertion", "n_queens", "spiral_matrix", "binary_matrix", "number_sorting"),
)
"""Datasets whose scorers evaluate text, as reasoning-gym 0.1.25 has them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judge() -> AsyncIterator[Judge]:
    made = Judge(limits=Limits(cpu_seconds=4))
    yield made
    await made.close()


@pytest.fixture(scope="module")
def source() -> ReasoningGymSource:
    return ReasoningGymSource(name="gym", datasets=EVALUATING, size=2 * len(EVALUATING), seed=1)


def gym(dataset: str, **entry: Any) -> Task:
    spec = GraderSpec(type="ReasoningGym", data={"dataset": dataset, "entry": entry})
    return Task(id="t", instruction="?", grader=spec, source="s")


@on_one_loop
async def test_right_answers_are_right_and_garbage_is_wrong(judge: Judge) -> None:
    datasets = ["chain_sum", "prime_factorization", "number_sorting", *EVALUATING]
    source = ReasoningGymSource(name="gym", datasets=datasets, size=3 * len(datasets), seed=7)
    for index in range(len(source)):
        task = Task.model_validate_json(source.task(index).model_dump_json())  # as a worker gets it
        answer = reference_answer(task)
        assert answer is not None
        assert (await judge(task, answer)).outcome == 1, task.id
        for garbage in ("", "no idea", "[", "×", "\\boxed{", "9" * 300, "-1", None):
            assert (await judge(task, garbage)).outcome == 0, (task.id, garbage)


HOSTILE = [
    "__import__('os').system('touch {}')",
    "[__import__('pathlib').Path('{}').touch()]",
    "(lambda: open('{}', 'w'))()",
    "[open('{}', 'w') for _ in 'x']",
    "S(\"open('{}', 'w')\")",
    "().__class__.__base__.__subclasses__()",
    "exec('import os')",
    "factorial(10**8)",
    "Integral(x**2, x)",
    "expand((x+1)**2)",
    "'x'.format(0)",
    "[" * 20_000,
    "(" * 20_000,
]


@on_one_loop
@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_answer_becomes_code(judge: Judge, source: ReasoningGymSource, answer: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for index in range(len(EVALUATING)):
        grade = await judge(source.task(index), answer.replace("{}", str(touched)))
        assert grade.score <= 0.05, (source.task(index).id, grade)
    assert not touched.exists()


@on_one_loop
async def test_an_answer_that_takes_for_ever_is_wrong_and_the_next_one_is_graded(
    judge: Judge, source: ReasoningGymSource
) -> None:
    index = EVALUATING.index("simple_integration")
    task = source.task(index)
    grade = await judge(task, "9**9**9**9")
    assert grade == Grade(0.0, 0.0, "the answer made its grader fail: it used more than 4 CPU seconds")
    assert (await judge(task, task.grader.data["entry"]["answer"])).outcome == 1
    for name in ("countdown", "puzzle24"):  # no power in their grammar: not even tried
        assert (await judge(source.task(EVALUATING.index(name)), "9**9**9**9")).detail == ""


@on_one_loop
@pytest.mark.parametrize("answer", ["0x18", "True*24", "2_4", "1e1", "24.0", "8//3", "(2)(3)", "2**4", "E"])
async def test_numbers_that_a_scorer_does_not_see_reach_no_target(judge: Judge, answer: str) -> None:
    entry = {"answer": "20+4", "metadata": {"numbers": [20, 4], "target": 24}}
    assert (await judge(gym("countdown", **entry), "20 + 4")).outcome == 1
    assert (await judge(gym("countdown", **entry), answer)).outcome == 0


@on_one_loop
async def test_a_scorer_that_fails_on_its_own_answer_is_a_failure(judge: Judge) -> None:
    for task, why in (
        (gym("no_such", answer="1"), "not registered"),
        (gym("prime_factorization", answer="two"), "on the task's own answer"),
        (gym("chain_sum"), "needs an `answer`"),
        (gym("chain_sum", answer="1").model_copy(update={"grader": GraderSpec(type="Psychic")}), "no grader"),
    ):
        with pytest.raises(GraderFailure, match=why):
            await judge(task, "2 x 3")


class Scripted:
    """Its program reads the score off the answer: what a scorer returns, whatever it is."""

    program = Program(run="support.judged:score")

    def __init__(self, right: str) -> None:
        self._right = right

    def check(self, data: Any) -> None: ...

    def job(self, task: Task, answer: str) -> Any:
        return answer

    def reference(self, data: Any) -> str | None:
        return self._right


def scripted(monkeypatch: pytest.MonkeyPatch, right: str, id: str) -> Task:
    monkeypatch.setitem(GRADERS, "Scripted", Scripted(right))
    return Task(id=id, instruction="?", grader=GraderSpec(type="Scripted", data={"id": id}), source="s")


@on_one_loop
@pytest.mark.parametrize("score", ["NaN", "2", "-1", "true", '"1.0"', "[1]", "null", "!exit", "!raise", "Infinity"])
async def test_a_score_is_a_number_from_0_to_1_or_the_answer_is_wrong(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    grade = await judge(scripted(monkeypatch, "1", "sound"), score)
    assert (grade.score, grade.outcome) == (0.0, 0.0)
    assert grade.detail.startswith("the answer made its grader fail: ")
    with pytest.raises(GraderFailure, match="own answer"):
        await judge(scripted(monkeypatch, "!exit", "broken"), score)
    with pytest.raises(GraderFailure, match=r"own answer 0\.5"):
        await judge(scripted(monkeypatch, "0.5", "half"), score)


@on_one_loop
async def test_no_sandbox_is_a_failure_and_never_the_workers_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolorchestra.sandbox.zygote_process._PYTHON", "/bin/false")
    broken = Judge()
    with pytest.raises(GraderFailure, match="parent process"):
        await broken(gym("chain_sum", answer="1"), "1")
    await broken.close()


def test_references_are_judged_before_a_run() -> None:
    good = gym("chain_sum", answer="12")
    evil = gym("number_sorting", answer="__import__('os').system('touch /tmp/no')")
    unknown = Task(id="bad", instruction="?", grader=GraderSpec(type="Nobody", data={}), source="s")
    with BlockingJudge() as judge:
        references = References(judge)
        assert [task for task in (good, evil, unknown) if references.finding(task)] == [evil, unknown]
        hurried = References(judge, left=0)
        assert hurried.finding(evil) is None
        assert hurried.ungraded == 1


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("3*x**2 + C", True),
        ("[[1, 2], ['a']]", True),
        ("Integer(2)*Symbol('x')/exp(Float('1.5'))", True),
        ("__import__('os')", False),
        ("x.y", False),
        ("(lambda: 1)()", False),
        ("[i for i in 'ab']", False),
        ("open('x')", False),
        ("S('x')", True),  # what it evaluates is looked at again
    ],
)
def test_what_may_be_evaluated(text: str, harmless: bool) -> None:
    assert is_arithmetic(compile(text, "<string>", "eval")) is harmless


def test_every_scorer_that_evaluates_is_known() -> None:
    """A later reasoning-gym with another one: look at it, then add it to EVALUATING."""
    spec = find_spec("reasoning_gym")
    assert spec is not None
    assert spec.origin is not None
    evaluates = re.compile(
        r"(?<![.\w])(eval|exec|compile)\(|parse_expr\(|sympify\(|parse_latex\(|literal_eval\(|pickle"
    )
    found = set()
    for path in Path(spec.origin).parent.rglob("*.py"):
        _, _, scorer = path.read_text().partition("def score_answer(")
        body = re.split(r"\n    (?:def|@)|\nclass ", scorer)[0]
        if evaluates.search(body):
            found.add(path.stem)
    assert found <= set(EVALUATING)
