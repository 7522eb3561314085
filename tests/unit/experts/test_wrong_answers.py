"""Simulated wrong answers are wrong by the real scorers, and right ones are right, on the demo's datasets."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.expert_servers import skill_table
from toolorchestra.experts.simulated import SimulatedTask
from toolorchestra.experts.skills import is_right, oracle, simulated_answer
from toolorchestra.experts.wrong import wrong_answer
from toolorchestra.tasks.answer import extract_answer
from toolorchestra.tasks.exact import normalise
from toolorchestra.tasks.grader import RIGHT, grade
from toolorchestra.tasks.gym import ReasoningGymGrader, score
from toolorchestra.tasks.reasoning_gym import ReasoningGymSource
from toolorchestra.tasks.task import GraderSpec, Task

DATASETS = (
    "chain_sum",
    "letter_counting",
    "number_sorting",
    "spell_backward",
    "prime_factorization",
    "leg_counting",
)


@pytest.fixture(scope="module")
def source() -> ReasoningGymSource:
    return ReasoningGymSource(name="puzzles", datasets=DATASETS, size=900, seed=3)


@pytest.mark.parametrize("accuracy", ["0", "1"])
def test_real_scorers_agree_with_the_table(source: ReasoningGymSource, accuracy: str) -> None:
    table = skill_table("oak", accuracy=accuracy, seed=5)
    for index in range(len(source)):
        task = source.task(index)
        answer = simulated_answer(table, "oak", SimulatedTask.of(task))
        outcome = score(ReasoningGymGrader().job(task, extract_answer(answer.text))) >= RIGHT
        assert outcome == (accuracy == "1"), (task.id, answer.text, task.grader.data["entry"]["answer"])
        assert answer.right == (accuracy == "1")


def test_the_oracle_knows_what_the_simulator_will_say(source: ReasoningGymSource) -> None:
    experts = ("oak", "elm")
    table = skill_table(*experts)
    rights = 0
    for index in range(len(source)):
        task = source.task(index)
        said = tuple(e for e in experts if simulated_answer(table, e, SimulatedTask.of(task)).right)
        assert said == oracle(table, task, experts)
        rights += len(said)
    assert 0.42 < rights / (2 * len(source)) < 0.58


def test_experts_fail_independently_and_consistently() -> None:
    table = skill_table("oak", "elm")
    oak = [is_right(table, "oak", task_id=f"t{i}", topic="x") for i in range(2000)]
    elm = [is_right(table, "elm", task_id=f"t{i}", topic="x") for i in range(2000)]
    assert oak == [is_right(table, "oak", task_id=f"t{i}", topic="x") for i in range(2000)]
    assert 0.45 < sum(a == b for a, b in zip(oak, elm, strict=True)) / 2000 < 0.55


def test_seconds_follow_the_table() -> None:
    table = skill_table("oak")
    seconds = sorted(
        simulated_answer(table, "oak", SimulatedTask(id=f"t{i}", topic="x", answer="1")).seconds for i in range(4000)
    )
    assert 0.93 < seconds[2000] < 1.07
    assert 3.4 < seconds[3960] < 4.7


def numeric(answer: str, kind: str) -> Task:
    grader = GraderSpec(type=kind, data={"answer": answer})
    return Task(id="t", instruction="?", grader=grader, source="s")


@given(st.integers(), st.integers(0, 2**32))
def test_integers_slip_to_other_integers(value: int, seed: int) -> None:
    wrong = wrong_answer(str(value), random.Random(seed))
    assert grade(numeric(str(value), "Numeric"), wrong).outcome == 0.0
    assert int(wrong) != value
    if value >= 0:
        assert int(wrong) >= 0


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3), st.integers(0, 2**32))
def test_decimals_slip_beyond_a_tolerance(value: object, seed: int) -> None:
    task = Task(
        id="t",
        instruction="?",
        source="s",
        grader=GraderSpec(type="Numeric", data={"answer": f"{value:f}", "relativeTolerance": "0.1"}),
    )
    assert grade(task, wrong_answer(f"{value:f}", random.Random(seed))).outcome == 0.0


@given(st.text(min_size=1).filter(normalise), st.integers(0, 2**32))
def test_any_text_slips_to_something_else(text: str, seed: int) -> None:
    assert grade(numeric(text, "ExactMatch"), wrong_answer(text, random.Random(seed))).outcome == 0.0


@pytest.mark.parametrize("text", ["1,234", "yes", "aaa", "x", "['1', '1']", "[3]", "New York", "7 × 7", "unknown"])
def test_awkward_answers_slip(text: str) -> None:
    for seed in range(50):
        wrong = wrong_answer(text, random.Random(seed))
        assert wrong.strip()
        assert grade(numeric(text, "ExactMatch"), wrong).outcome == 0.0


def test_without_a_right_answer_everyone_is_wrong() -> None:
    table = skill_table("oak", accuracy="1")
    answer = simulated_answer(table, "oak", SimulatedTask(id="t", topic="x", answer=None))
    assert not answer.right
    assert extract_answer(answer.text) == "unknown"


def test_the_task_header_survives_any_text() -> None:
    task = SimulatedTask(id="ü/1", topic="×", answer="{'a': \"\n\"}")
    assert SimulatedTask.parse(task.header()) == task
    assert task.header().isascii()
    for broken in ("", "ü", "e30=", "bnVsbA=="):
        with pytest.raises(ValueError, match="not a simulated task"):
            SimulatedTask.parse(broken)
