"""Budgets hold whatever the order of reservations and settlements."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from support.episode_world import LIMITS
from toolorchestra.rollout.budget import EpisodeBudget
from toolorchestra.rollout.trace import Ending, Meter

MONEY = st.decimals(min_value=0, max_value=5, places=3)


@given(MONEY, MONEY, st.lists(st.tuples(MONEY, st.floats(0, 1)), max_size=20))
def test_neither_limit_is_ever_passed(budget: Decimal, allowance: Decimal, calls: list[tuple[Decimal, float]]) -> None:
    account = EpisodeBudget(limits=LIMITS.model_copy(update={"max_usd": budget}), allowance_usd=allowance)
    for worst, share in calls:
        end = account.reserve(worst)
        if end is None:
            spent = (worst * Decimal(str(share))).quantize(Decimal("0.000001"), rounding="ROUND_DOWN")
            account.settle(worst, meters=(Meter(actual_usd=spent),))
        else:
            over_budget = account.actual_usd + worst > budget
            assert end.ending is (Ending.EPISODE_BUDGET if over_budget else Ending.SPEND_CAP)
        assert account.actual_usd <= min(budget, allowance)
        assert account.reserved_usd == 0


@given(MONEY, st.lists(st.tuples(MONEY, MONEY, MONEY), max_size=20))
def test_the_policy_is_blamed_only_for_what_it_spent(
    budget: Decimal, calls: list[tuple[Decimal, Decimal, Decimal]]
) -> None:
    """Calls of (worst case, spent, lost): only what would not have fitted without the losses is blamed."""
    account = EpisodeBudget(limits=LIMITS.model_copy(update={"max_usd": budget}), allowance_usd=None)
    own = Decimal(0)
    for worst, spent, lost in calls:
        end = account.reserve(worst)
        if end is not None:
            blamed = own + worst > budget
            assert end.ending is (Ending.EPISODE_BUDGET if blamed else Ending.TOOL_FAILURE)
            continue
        if account.reserve(lost) is not None:
            lost = Decimal(0)
        spent = min(worst, spent)
        own += spent
        account.settle(worst + lost, meters=(Meter(actual_usd=spent + lost, wasted_usd=lost),))
        assert account.reserved_usd == 0
        assert account.actual_usd <= budget
