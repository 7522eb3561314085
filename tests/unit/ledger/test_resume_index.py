"""A resume from a checkpoint's condensed history is a resume from the whole journal, at any moment of any run."""

from __future__ import annotations

import logging
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from support.ledger_machine import BooksMachine
from toolorchestra.ledger import resume
from toolorchestra.ledger.dispatch_set import DispatchSet
from toolorchestra.ledger.history import History, account, read_history, recover
from toolorchestra.ledger.journal import Journal, Kind, read_frames
from toolorchestra.ledger.journalled import JournalledLedger, Result
from toolorchestra.ledger.ledger import LedgerConfig, StepPlan
from toolorchestra.ledger.resume import KEY, IndexDamaged, decode, encode, load_history, resumed
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.identity import Dispatch, EpisodeId

DERIVED = ("opened", "dropped", "accepted", "fate", "steps", "settled", "recorded")
"""What condensing takes something out of; the other fields of a History stay as they are."""


def assert_same(condensed: History, whole: History, *, step: int) -> None:
    """Everything that is asked of a history has the same answer."""
    assert recover(condensed, step=step) == recover(whole, step=step)
    assert account(condensed) == account(whole)
    assert set(condensed.recorded) == set(whole.recorded)
    for name in (field.name for field in fields(History) if field.name not in DERIVED):
        assert getattr(condensed, name) == getattr(whole, name), name


class ResumingMachine(BooksMachine):
    """The same runs, where every life reads what its checkpoint kept and the frames after it."""

    def checkpoint(self) -> None:
        super().checkpoint()
        step = self.journalled.ledger.step
        self.index[step] = self.journalled.index.at(step)
        self.journalled.journal.note("checkpoint", step=step, folder="")
        self.journalled.flush()

    def read(self) -> History:
        self.index: dict[int, str] = getattr(self, "index", {})
        step, whole = self.checkpoints[-1], read_history(self.disk)
        kept = self.index.get(step)
        history = resumed(lambda start: self.disk[start:], step=step, condensed=decode(kept) if kept else None)
        assert_same(history, whole, step=step)
        assert_same(resumed(lambda start: self.disk[start:], step=step), whole, step=step)
        return history

    @precondition(lambda self: len(self.checkpoints) > 1)
    @rule()
    def the_newest_checkpoint_is_damaged(self) -> None:
        self.checkpoints.pop()
        self.training = None
        self.life()


ResumingMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
TestResuming = ResumingMachine.TestCase


@pytest.mark.long
def test_a_thousand_runs_resume_from_what_their_checkpoints_kept() -> None:
    thousand = settings(max_examples=1000, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(ResumingMachine, settings=thousand)


dispatches = st.builds(
    lambda uid, group, sample, incarnation, n: str(Dispatch(EpisodeId(uid, group, sample), incarnation, n)),
    st.sampled_from(["a", "a-e0x1"]),
    st.one_of(st.integers(0, 20_000), st.integers(0, 10**15)),
    st.integers(0, 9),
    st.integers(0, 3),
    st.integers(0, 3),
)


@given(added=st.sets(dispatches), asked=st.sets(dispatches))
def test_a_set_of_dispatches_is_a_set(added: set[str], asked: set[str]) -> None:
    found = DispatchSet()
    for text in [*added, *added]:
        found.add(text)
    assert set(found) == added
    assert len(found) == len(added)
    assert {text for text in asked if text in found} == added & asked
    history = History(recorded=found, spent=Decimal("1.10"), allowances=dict.fromkeys(asked, Decimal("0.1")))
    assert decode(encode(history)) == history


def a_journal(path: Path, *, steps: int) -> tuple[Journal, str]:
    """Steps of one group of two; the text that the checkpoint of the step before the last one keeps."""
    journal, kept = Journal(path), ""
    journalled, _ = JournalledLedger.open(
        config=LedgerConfig(1, 2), uid="u", journal=journal, history=History(), step=0
    )
    for step in range(steps):
        for dispatch in journalled.admit(now=0.0):
            version = PolicyVersion(0, step)
            entry = journalled.enter(
                Result(dispatch, True, "x", Decimal("0.01"), (version, version)), b"t" * 500, now=0.0
            )
            for number in entry.effects.finished:
                journalled.ledger.keep(number)
        plan = journalled.next_step()
        assert isinstance(plan, StepPlan)
        journalled.begin(plan)
        journalled.publish(step + 1)
        journalled.flush()
        if step == steps - 2:
            kept = journalled.index.at(step + 1)
            journal.note("checkpoint", step=step + 1, folder="")
    journalled.flush()
    return journal, kept


def test_a_resume_reads_only_what_came_after_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.bin"
    _, kept = a_journal(path, steps=20)
    starts: list[int] = []

    def counted(*args: object, **kwargs: object) -> object:
        for frame in read_frames(*args, **kwargs):  # type: ignore[arg-type]
            starts.append(frame.start)
            yield frame

    monkeypatch.setattr(resume, "read_frames", counted)
    history = load_history(path, step=19, job={KEY: kept, "journal_offset": decode(kept).end})
    assert min(starts) == decode(kept).end
    assert len(starts) < 10
    assert_same(history, read_history(read_frames(path)), step=19)


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-9], lambda text: "A" * 40, lambda text: text[:50] + "zz" + text[52:]]
)
def test_a_damaged_index_is_said_and_the_journal_read(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.bin"
    _, kept = a_journal(path, steps=6)
    broken = damage(kept)  # type: ignore[operator]
    with pytest.raises(IndexDamaged):
        decode(broken)
    with caplog.at_level(logging.WARNING):
        history = load_history(path, step=5, job={KEY: broken})
    assert "the whole journal is read instead" in caplog.text
    assert_same(history, read_history(read_frames(path)), step=5)
    assert_same(load_history(path, step=5, job={}), read_history(read_frames(path)), step=5)


def test_a_checkpoint_that_comes_back_after_a_life_behind_it_is_read_anew(tmp_path: Path) -> None:
    """Its folder did not read for a while: that life went on from an earlier one."""
    path = tmp_path / "journal.bin"
    journal, kept = a_journal(path, steps=6)
    journal.note("incarnation", incarnation=1, step=2)
    journal.close()
    history = load_history(path, step=5, job={KEY: kept})
    assert_same(history, read_history(read_frames(path)), step=5)
    assert sorted(history.steps) == [1, 2]


def test_late_duplicates_of_condensed_dispatches_are_known(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    _, kept = a_journal(path, steps=4)
    history = load_history(path, step=3, job={KEY: kept})
    accepted = [f.head["issue"] for f in read_frames(path) if f.kind is Kind.ACCEPTED]
    assert all(dispatch in history.recorded for dispatch in accepted)
    assert not any(dispatch.rsplit(".", 1)[0] + ".1" in history.recorded for dispatch in accepted)
    assert len(history.accepted) == 2, "those of the step after the checkpoint"
    assert (len(history.opened), decode(kept).steps, decode(kept).accepted) == (2, {}, {})
