"""Kills and returns to checkpoints, at any moment: the ledger stay exact (ledger.md, "Accepted means durable")."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)

from support.ledger_machine import BooksMachine
from toolorchestra.ledger.history import Accepted, History, recover
from toolorchestra.ledger.spend import Spend
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.identity import Dispatch, EpisodeId

TestBooks = BooksMachine.TestCase


@pytest.mark.long
def test_a_thousand_runs_survive() -> None:
    thousand = settings(max_examples=1000, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(BooksMachine, settings=thousand)


def test_what_a_later_incarnation_undid_is_not_under_way_after_the_next() -> None:
    """Openings of an undone future were once restored by the second resume, beyond the bound."""
    world = BooksMachine()
    world.start(staleness=0, cap=None, on_stale="Wait")
    world.never_stuck(drops=0, checkpoint=False)
    world.never_stuck(drops=2, checkpoint=False)
    world.kill(lost="", back=2, times=1)
    world.never_stuck(drops=0, checkpoint=True)
    world.admit()
    assert sorted(world.journalled.ledger.groups) == [2, 3]
    world.kill(lost="", back=0, times=1)
    assert sorted(world.journalled.ledger.groups) == [2, 3]
    world.bounded()


def test_results_of_weights_that_another_life_undid_are_set_aside_also_beyond_their_step() -> None:
    """Life 0 sampled with its version 5; life 1 began at step 4 and made another version 5, from which life 2 begins.
    By their steps alone the tokens would look like those of weights that stand."""
    kept, undone, ahead = (Dispatch(EpisodeId("u", 7, sample), 0, 0) for sample in range(3))
    history = History(
        incarnations=[(0, 0), (1, 4)],
        opened={7: 4},
        accepted={
            kept: Accepted(kept, PolicyVersion(0, 4), PolicyVersion(0, 4)),
            undone: Accepted(undone, PolicyVersion(0, 4), PolicyVersion(0, 5)),
            ahead: Accepted(ahead, PolicyVersion(1, 5), PolicyVersion(1, 6)),
        },
    )
    recovery = recover(history, step=5)
    assert recovery.restore == {7: (history.accepted[kept],)}
    assert recovery.set_aside == (undone, ahead), "and life 1 had gone beyond the checkpoint"


def test_a_bill_that_comes_after_all_takes_the_place_of_what_was_presumed() -> None:
    spend = Spend(Decimal("1"))
    spend.reserve("a", Decimal("0.9"))
    spend.presume("a")
    assert (spend.settled, spend.held) == (Decimal("0.9"), Decimal(0))
    spend.settle("a", Decimal("0.1"))
    assert (spend.settled, spend.held, spend.presumed) == (Decimal("0.1"), Decimal(0), {})


def test_the_cap_refuses_what_does_not_fit() -> None:
    spend = Spend(Decimal("1"))
    assert spend.room_for(dispatches=10, each=Decimal("0.3")) == 3
    spend.reserve("a", Decimal("0.9"))
    with pytest.raises(ValueError, match="no room"):
        spend.reserve("b", Decimal("0.2"))
    spend.settle("a", Decimal("0.1"))
    spend.reserve("b", Decimal("0.9"))
    assert spend.room_for(dispatches=1, each=Decimal("0.01")) == 0
