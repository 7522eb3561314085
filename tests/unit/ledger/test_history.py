"""What each kind of frame and note means for money, counts and evaluations."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from toolorchestra.ledger.history import Evaluation, History, account, read_history, recover
from toolorchestra.ledger.journal import Journal, Kind, read_frames
from toolorchestra.ledger.ledger import Ledger, LedgerConfig
from toolorchestra.ledger.spend import Spend
from toolorchestra.rollout.identity import Dispatch

ONE, TWO = "u.0.0.0.0", "u.0.1.0.0"


def history(folder: Path, *frames: tuple[str | Kind, dict[str, Any]]) -> History:
    """Of these notes, and results by their kind."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal.bin")
    for what, head in frames:
        if isinstance(what, Kind):
            journal.append(what, {"issue": ONE, "usd": "0", **head}, b"")
        else:
            journal.note(what, **head)
    journal.flush()
    journal.close()
    return read_history(read_frames(folder / "journal.bin"))


ISSUED = ("issued", {"issues": [ONE, TWO], "allowance": "0.5"})
WITHDRAWN = ("withdrawn", {"issues": [ONE, "u.9.9.0.0"], "until": 7.0})


def test_a_dead_issue_waits_for_its_bill_and_counts_its_worst_case_without_one(tmp_path: Path) -> None:
    found = history(tmp_path, ISSUED, WITHDRAWN)
    assert (found.allowances, found.withdrawn) == ({ONE: Decimal("0.5"), TWO: Decimal("0.5")}, {ONE: 7.0})
    found = history(tmp_path / "later", ISSUED, WITHDRAWN, ("presumed", {"issues": [ONE]}))
    assert (found.allowances, found.withdrawn, found.presumed) == ({TWO: Decimal("0.5")}, {}, {ONE: Decimal("0.5")})
    assert found.spent == Decimal("0.5")


def test_a_bill_that_comes_after_all_takes_the_place_of_the_worst_case(tmp_path: Path) -> None:
    came = (Kind.LATE, {"usd": "0.2"})
    found = history(tmp_path, ISSUED, ("presumed", {"issues": [ONE]}), ("spent", {"usd": "0.1"}), came)
    assert (found.spent, found.presumed, found.allowances) == (Decimal("0.3"), {}, {TWO: Decimal("0.5")})


def test_what_is_released_costs_nothing_and_what_is_free_reserves_nothing(tmp_path: Path) -> None:
    found = history(tmp_path, ISSUED, WITHDRAWN, ("released", {"issues": [ONE, TWO, "u.9.9.0.0"]}))
    assert (found.allowances, found.withdrawn, found.spent) == ({}, {}, 0)
    assert history(tmp_path / "other", ("issued", {"issues": [ONE], "allowance": None})).allowances == {}


def test_results_are_counted_by_their_kind(tmp_path: Path) -> None:
    late, unscored = (Kind.LATE, {}), (Kind.UNSCORED, {})
    found = history(tmp_path, late, late, unscored, unscored, unscored)
    assert (found.late, found.unscored, ONE in found.recorded) == (2, 3, True)


def test_notes_for_people_mean_nothing(tmp_path: Path) -> None:
    found = history(tmp_path, ("lost", {"episode": "u.0.0", "reason": "lost"}), ("checkpoint", {"step": 1}))
    found.end = 0
    assert found == History()


def test_groups_that_are_set_aside_are_over(tmp_path: Path) -> None:
    opened = ("opened", {"groups": [0, 1, 2], "step": 0})
    aside = ("set_aside", {"reason": "stale", "issues": [ONE], "groups": [1]})
    found = history(tmp_path, opened, aside)
    assert (found.dropped, found.fate) == ({1}, {Dispatch.parse(ONE): "set_aside:stale"})
    assert sorted(recover(found, step=0).restore) == [0, 2]


@pytest.mark.parametrize(
    ("suite", "version", "task", "known"),
    [
        ("s", "0-4", "t", True),
        ("s", "1-4", "t", True),
        ("s", "0-5", "t", False),
        ("s", None, "t", False),
        ("s", "0-4", "other", False),
        ("other", "0-4", "t", False),
    ],
)
def test_what_was_scored_with_the_same_weights_is_not_scored_again(
    tmp_path: Path, suite: str, version: str | None, task: str, known: bool
) -> None:
    evaluation = ("evaluation", {"uid": "u", "suite": "s", "system": "policy", "version": "0-4"})
    found = history(tmp_path, evaluation, (Kind.EVALUATED, {"task": "t", "scored": True}))
    assert found.scored_before(Evaluation(suite, "policy", version), task=task) == (ONE if known else None)
    found.incarnations = [(0, 0), (1, 3)]
    assert found.scored_before(Evaluation("s", "policy", "1-4"), task="t") is None, "those weights did not survive"


@pytest.mark.parametrize("head", [{"scored": False}, {"scored": True, "issue": "other.0.0.0.0"}])
def test_what_was_not_scored_is_scored_again(tmp_path: Path, head: dict[str, Any]) -> None:
    evaluation = ("evaluation", {"uid": "u", "suite": "s", "system": "policy", "version": None})
    found = history(tmp_path, evaluation, (Kind.EVALUATED, {"task": "t", **head}))
    assert found.scored_before(Evaluation("s", "policy"), task="t") is None


def test_a_dispatch_has_one_fate() -> None:
    dispatch = Dispatch.parse(ONE)
    with pytest.raises(ValueError, match=r"dispatch u\S+ was trained, but it is also set_aside:stale"):
        account(History(steps={1: (dispatch,)}, fate={dispatch: "set_aside:stale"}))
    for unknown in (History(steps={1: (dispatch,)}), History(fate={dispatch: "excluded:x"})):
        with pytest.raises(ValueError, match=r"dispatch u\S+ was trained or ended, but it was never accepted"):
            account(unknown)


def test_what_a_dispatch_without_a_bill_counts() -> None:
    spend = Spend(cap=Decimal(2), reserved={ONE: Decimal("0.5")}, presumed={TWO: Decimal("0.25")})
    assert [spend.bill(one, None) for one in (ONE, TWO, "u.2.0.0.0")] == [Decimal("0.5"), Decimal("0.25"), 0]
    assert spend.bill(ONE, Decimal("0.1")) == Decimal("0.1")
    assert spend.as_dict() == {"settledUSD": "0", "reservedUSD": "0.5", "capUSD": "2"}
    assert Spend().as_dict()["capUSD"] is None


@pytest.mark.parametrize(
    ("cap", "allowance", "limit"), [(None, "0.5", None), ("1", "0", None), ("1", "0.5", "0.5"), ("1", "1.5", "1.5")]
)
def test_a_worker_is_told_a_limit_where_there_is_a_cap(cap: str | None, allowance: str, limit: str | None) -> None:
    spend = Spend(cap=None if cap is None else Decimal(cap))
    ledger = Ledger(LedgerConfig(1, 2), "u", spend=spend, allowance=Decimal(allowance))
    assert ledger.limit == (None if limit is None else Decimal(limit))


@pytest.mark.parametrize(("steps", "opened"), [(None, 4), (3, 2), (4, 4), (2, 0)])
def test_groups_that_no_step_would_use_are_not_opened(steps: int | None, opened: int) -> None:
    ledger = Ledger(LedgerConfig(2, 2, max_staleness=1), "u", step=2, steps=steps)
    ledger.admit(now=0.0)
    assert len(ledger.groups) == opened
    assert ledger.admit(now=0.0) == []
