"""A run that learns nothing pauses and says why; one that learns little is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.controller_scene import Scene, either
from support.episode_world import answer, host_of, order_of, play
from toolorchestra.api.conditions import Reason
from toolorchestra.controller.assemble import SampleFilters
from toolorchestra.controller.controller import Paused
from toolorchestra.controller.monitoring.vitality import EMPTY_STEPS, FEWEST_OUTPUTS, OUTPUTS, Vitality
from toolorchestra.policy.parser import Rejection
from toolorchestra.rollout.trace import Trace, Turn
from toolorchestra.runs.run_dir import read_jsonl

REFUSED, READ = Turn(text="hm", rejection=Rejection.NO_CALL.value), Turn(text="call")


@pytest.fixture
async def trace() -> Trace:
    return await play(order_of(), host_of([answer("oak")]))


def vitality(*, steps: int = 50, require_format: bool = True) -> Vitality:
    return Vitality(steps=steps, require_format=require_format)


def played(vital: Vitality, trace: Trace, *, refused: int, read: int, right: int = 0) -> Vitality:
    """`right`: of how many outputs the episode was right."""
    wrong = 0
    for turn, n in ((REFUSED, refused), (READ, read)):
        for _ in range(n):
            outcome = 1.0 if wrong >= refused + read - right else 0.0
            components = trace.components.model_copy(update={"outcome": outcome})
            vital.played(trace.model_copy(update={"turns": (turn,), "components": components}))
            wrong += 1
    return vital


def test_outputs_that_are_nearly_all_refused(trace: Trace) -> None:
    complaint = played(vitality(), trace, refused=96, read=4, right=4).complaint()
    assert complaint is not None
    assert complaint.reason is Reason.OUTPUTS_UNREADABLE
    for word in ("96 of the policy's last 100", "no_call 96", "--prompt", "warmStart", "requireFormat: false"):
        assert word in complaint.message


@pytest.mark.parametrize(("refused", "read"), [(94, 6), (FEWEST_OUTPUTS - 1, 0), (0, 300), (150, OUTPUTS)])
def test_a_run_that_can_learn_is_left_alone(trace: Trace, refused: int, read: int) -> None:
    assert played(vitality(), trace, refused=refused, read=read).complaint() is None


@pytest.mark.parametrize("right", [0, 1])
def test_outputs_that_are_refused_and_trained_on_are_a_sign_too(trace: Trace, right: int) -> None:
    """Siblings that all earn nothing look like a step's samples, and teach nothing."""
    complaint = played(vitality(require_format=False), trace, refused=OUTPUTS, read=0, right=right).complaint()
    assert complaint is not None
    assert complaint.reason is Reason.OUTPUTS_UNREADABLE
    assert f"200 of the policy's last 200 outputs were refused (no_call 200), and {right} were" in complaint.message
    assert "warmStart" in complaint.message
    assert "requireFormat" not in complaint.message, "that it has already"


def test_what_would_not_help_is_not_advised(trace: Trace) -> None:
    complaint = played(vitality(), trace, refused=OUTPUTS, read=0).complaint()
    assert complaint is not None
    assert "requireFormat" not in complaint.message, "nothing is right: there would be nothing to learn from"


@pytest.mark.parametrize(("refused", "read", "right"), [(OUTPUTS, 0, 2), (196, 4, 2), (99, 1, 1)])
def test_a_few_right_answers_are_something_to_learn_from(trace: Trace, refused: int, read: int, right: int) -> None:
    vital = vitality(require_format=False)
    assert played(vital, trace, refused=refused, read=read, right=right).complaint() is None


@given(st.lists(st.integers(0, 3), max_size=30))
def test_steps_without_samples_count_in_a_row_only(samples: list[int]) -> None:
    vital, row = vitality(), 0
    for n in samples:
        said = vital.stepped((), samples=n, dropped={"uninformative": 2})
        row = 0 if n else row + 1
        assert (said is None) == (n > 0)
        assert vital.empty_steps == row
        complaint = vital.complaint()
        assert (complaint is not None) == (row >= EMPTY_STEPS)
        assert complaint is None or complaint.reason is Reason.NOTHING_LEARNED


def test_a_run_of_two_steps_that_trains_on_nothing_is_not_complete(trace: Trace) -> None:
    vital = vitality(steps=2)
    vital.stepped((), samples=0, dropped={})
    assert vital.complaint() is None
    said = vital.stepped([trace.model_copy(update={"turns": (REFUSED,)})], samples=0, dropped={})
    assert said is not None
    assert "1 of 1 outputs were refused (no_call 1)" in said
    complaint = vital.complaint()
    assert complaint is not None
    assert said.rpartition(": ")[0].rpartition("the weights did not change: ")[2] in complaint.message


async def test_the_controller_says_it_counts_it_and_pauses(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=lambda prompt: "I would rather talk.", steps=3)
    async with scene.running() as controller:
        (first,) = [await controller.step()]
        controller.check()
        rows = [first, await controller.step(), await controller.step()]
        with pytest.raises(Paused, match=r"3 steps in a row.*\(no_call|3 steps in a row.*uninformative") as caught:
            controller.check()
    assert caught.value.reason is Reason.NOTHING_LEARNED
    assert [row["samples"] for row in rows] == [0, 0, 0]
    assert [row["empty_steps"] for row in rows] == [1, 2, 3]
    assert all(0 <= row["trainer_idle_fraction"] <= 1 for row in rows)
    events = [event for event in read_jsonl(controller.run.events) if event["event"] == "empty_step"]
    assert [event["step"] for event in events] == [1, 2, 3]
    assert "nothing to train on" in events[0]["message"]


async def test_a_run_that_trains_goes_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=4, filters=SampleFilters())
    async with scene.running() as controller:
        for _ in range(4):
            row = await controller.step()
            controller.check()
            assert row["samples"] > 0
            assert row["empty_steps"] == 0
