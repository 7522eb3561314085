"""What one episode has used and may still use. Pure: no I/O, no clock.

Invariant: actual dollars spent plus those reserved for calls in flight never pass the allowance or the episode's
budget, provided that no call costs more than the worst case that was reserved for it.
"""

from __future__ import annotations

from decimal import Decimal

from toolorchestra.rollout.end import End
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.rollout.trace import Ending, Meter


class EpisodeBudget:
    """Actual dollars and service seconds of one episode against its limits."""

    def __init__(self, *, limits: EpisodeLimits, allowance_usd: Decimal | None) -> None:
        self._limits = limits
        self._allowance_usd = allowance_usd
        self.actual_usd = Decimal(0)
        self.reserved_usd = Decimal(0)
        self.wasted_usd = Decimal(0)
        """Of the actual dollars, what failed attempts of experts may have cost."""
        self.service_seconds = 0.0

    def out_of_time(self) -> End | None:
        """The end where service time has reached the episode's budget."""
        limit = self._limits.max_service_seconds
        if limit is None or self.service_seconds < limit:
            return None
        return End(Ending.EPISODE_BUDGET, f"{self.service_seconds:.1f} s of service time used of {limit:g} s")

    def reserve(self, worst_case_usd: Decimal) -> End | None:
        """Set dollars aside for calls about to be made, or the end that forbids them.

        The episode's budget is asked first: beyond it the policy is at fault whatever the run's cap says, unless the
        call would have fitted had no attempt been lost.
        """
        needed = self.actual_usd + self.reserved_usd + worst_case_usd
        budget = self._limits.max_usd
        if budget is not None and needed > budget:
            text = f"the call could bring the episode to ${needed} of its ${budget}"
            if needed - self.wasted_usd > budget:
                return End(Ending.EPISODE_BUDGET, text)
            return End(Ending.TOOL_FAILURE, f"{text}, ${self.wasted_usd} of them for attempts at experts that failed")
        if self._allowance_usd is not None and needed > self._allowance_usd:
            return End(
                Ending.SPEND_CAP, f"the call could bring the episode to ${needed} of ${self._allowance_usd} left"
            )
        self.reserved_usd += worst_case_usd
        return None

    def settle(self, reserved_usd: Decimal, *, meters: tuple[Meter, ...]) -> None:
        """Replace a reservation by what was really spent."""
        self.reserved_usd -= reserved_usd
        self.actual_usd += sum((meter.actual_usd for meter in meters), Decimal(0))
        self.wasted_usd += sum((meter.wasted_usd for meter in meters), Decimal(0))
