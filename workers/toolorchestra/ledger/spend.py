"""Money under the cap. A dispatch reserves its worst case before it is published, and later settles its real cost.

Invariant: settled + reserved ≤ cap, so the run never spends more than `maxSpendUSD`, whatever workers or results do.
Without a cap the same amounts are reserved without a limit: they count if a bill never comes.

A reservation ends in one of three ways. Its bill comes (perhaps late). It is released, because no worker ever got the
dispatch. Or its worst case counts, because the bill will not come: an unknown cost is never zero. For a dead dispatch
the third way has a fixed time, so no reservation stays for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass
class Spend:
    """The run's money. `cap` None: everything is counted, nothing is limited. Keys are the texts of dispatches."""

    cap: Decimal | None = None
    settled: Decimal = Decimal(0)
    reserved: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    dead: dict[str, float] = field(default_factory=dict[str, float])
    """Reserved dispatches that are dead → Unix time at which their worst case counts."""
    presumed: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    """Dispatches settled at their worst case, until their bill comes after all."""
    held: Decimal = Decimal(0)
    """Dollars of all reservations: the sum of `reserved`, updated with it."""

    def __post_init__(self) -> None:
        self.held = sum(self.reserved.values(), Decimal(0))

    def room_for(self, *, dispatches: int, each: Decimal) -> int:
        """Return how many of `dispatches` new sendings, with a worst case of `each` dollars, fit under the cap."""
        if self.cap is None or each <= 0:
            return dispatches
        return max(0, min(dispatches, int((self.cap - self.settled - self.held) / each)))

    def reserve(self, dispatch: str, amount: Decimal) -> None:
        """Reserve the worst case of a dispatch. ValueError if the cap has no room (call `room_for` first)."""
        if self.cap is not None and self.settled + self.held + amount > self.cap:
            raise ValueError(f"the spend cap of ${self.cap} has no room for ${amount}")
        if amount > 0:
            self.reserved[dispatch] = amount
            self.held += amount

    def bill(self, dispatch: str, actual: Decimal | None) -> Decimal:
        """Return the dollars that the dispatch counts: `actual`, or if unknown the worst case reserved for it."""
        if actual is not None:
            return actual
        return self.reserved.get(dispatch, self.presumed.get(dispatch, Decimal(0)))

    def settle(self, dispatch: str, actual: Decimal) -> None:
        """Count the bill of a dispatch. It replaces the reservation, or the presumed amount."""
        self.release(dispatch)
        self.settled += actual - self.presumed.pop(dispatch, Decimal(0))

    def release(self, dispatch: str) -> None:
        """Remove the reservation: nothing was spent."""
        self.held -= self.reserved.pop(dispatch, Decimal(0))
        self.dead.pop(dispatch, None)

    def await_bill(self, dispatch: str, *, until: float) -> None:
        """Wait for the bill of a dead dispatch until this Unix time: it may have been paid for."""
        if dispatch in self.reserved:
            self.dead[dispatch] = until

    def overdue(self, *, now: float) -> list[str]:
        """Return the dead dispatches whose bill is no longer awaited."""
        return [dispatch for dispatch, until in self.dead.items() if until <= now]

    def presume(self, dispatch: str) -> None:
        """Count the worst case of a dispatch, because its bill will not come."""
        amount = self.reserved[dispatch]
        self.release(dispatch)
        self.settled += amount
        self.presumed[dispatch] = amount

    def as_dict(self) -> dict[str, str | None]:
        """Return decimal strings for manifests and progress."""
        cap = None if self.cap is None else str(self.cap)
        return {"settledUSD": str(self.settled), "reservedUSD": str(self.held), "capUSD": cap}
