"""The budget of one episode: what it has used, and what it may still use. Pure: no I/O, no clock.

Invariant: dollars spent plus dollars reserved for calls in flight never exceed the allowance or the episode budget, if
no call costs more than the worst case that was reserved for it.
"""

from __future__ import annotations

from decimal import Decimal

from toolorchestra.rollout.end import End
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.rollout.trace import Ending, Meter


class EpisodeBudget:
    """Actual dollars and service seconds of one episode, checked against its limits."""

    def __init__(self, *, limits: EpisodeLimits, allowance_usd: Decimal | None) -> None:
        self._limits = limits
        self._allowance_usd = allowance_usd
        self.actual_usd = Decimal(0)
        self.reserved_usd = Decimal(0)
        self.wasted_usd = Decimal(0)
        """The part of `actual_usd` that failed attempts at experts may have cost."""
        self.service_seconds = 0.0

    def out_of_time(self) -> End | None:
        """Return the end of the episode if its service time has reached the limit, else None."""
        limit = self._limits.max_service_seconds
        if limit is None or self.service_seconds < limit:
            return None
        return End(Ending.EPISODE_BUDGET, f"{self.service_seconds:.1f} s of service time used of {limit:g} s")

    def reserve(self, worst_case_usd: Decimal) -> End | None:
        """Reserve dollars for calls. Return None, or the end of the episode if the calls are not allowed.

        The episode budget is checked first: beyond it, the policy is at fault, whatever the run's cap says. The
        exception is a call that would fit if no attempt had been lost.
        """
        needed = self.actual_usd + self.reserved_usd + worst_case_usd
        budget = self._limits.max_usd
        if budget is not None and needed > budget:
            text = f"the call could bring the episode to ${needed} of its ${budget}"
            if needed - self.wasted_usd > budget:
                return End(Ending.EPISODE_BUDGET, text)
            return End(Ending.TOOL_FAILURE, f"{text}, ${self.wasted_usd} of them for failed attempts at experts")
        if self._allowance_usd is not None and needed > self._allowance_usd:
            return End(
                Ending.SPEND_CAP, f"the call could bring the episode to ${needed} of ${self._allowance_usd} left"
            )
        self.reserved_usd += worst_case_usd
        return None

    def settle(self, reserved_usd: Decimal, *, meters: tuple[Meter, ...]) -> None:
        """Replace a reservation by the amount that was really spent."""
        self.reserved_usd -= reserved_usd
        self.actual_usd += sum((meter.actual_usd for meter in meters), Decimal(0))
        self.wasted_usd += sum((meter.wasted_usd for meter in meters), Decimal(0))
