"""Money under the cap: a dispatch reserves its worst case before it is published, and settles with what it really cost.

Invariant: settled + reserved ≤ cap, so the run never spends more than `maxSpendUSD`, whatever workers or results do.
Without a cap the same is reserved and bounds nothing: it is what a bill counts that nobody tells.
A reservation ends in one of three ways: its bill comes (also a late one), it is released because no worker ever got the
dispatch, or the worst case counts because nobody will tell any more: what was spent meanwhile is unknown, never zero. A
dead dispatch has a time at which the last of these happens, so none is reserved for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass
class Spend:
    """`cap` None: nothing is bounded, everything is counted. Keys are the texts of dispatches."""

    cap: Decimal | None = None
    settled: Decimal = Decimal(0)
    reserved: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    dead: dict[str, float] = field(default_factory=dict[str, float])
    """Of the reserved: those that are dead, with the Unix time at which their worst case counts."""
    presumed: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    """What was settled at its worst case, until its bill comes after all."""
    held: Decimal = Decimal(0)
    """Dollars reserved by dispatches whose bill has not come: the sum of `reserved`, kept as it changes."""

    def __post_init__(self) -> None:
        self.held = sum(self.reserved.values(), Decimal(0))

    def room_for(self, *, dispatches: int, each: Decimal) -> int:
        """How many of `dispatches` new sendings at a worst case of `each` dollars fit under the cap."""
        if self.cap is None or each <= 0:
            return dispatches
        return max(0, min(dispatches, int((self.cap - self.settled - self.held) / each)))

    def reserve(self, dispatch: str, amount: Decimal) -> None:
        """Set the worst case of a dispatch aside; ValueError where the cap has no room (ask `room_for` first)."""
        if self.cap is not None and self.settled + self.held + amount > self.cap:
            raise ValueError(f"the spend cap of ${self.cap} has no room for ${amount}")
        if amount > 0:
            self.reserved[dispatch] = amount
            self.held += amount

    def bill(self, dispatch: str, actual: Decimal | None) -> Decimal:
        """Dollars that the dispatch counts: `actual`, or the worst case reserved for it if unknown."""
        if actual is not None:
            return actual
        return self.reserved.get(dispatch, self.presumed.get(dispatch, Decimal(0)))

    def settle(self, dispatch: str, actual: Decimal) -> None:
        """The bill of a dispatch: its reservation (or what was presumed) goes, the actual dollars count."""
        self.release(dispatch)
        self.settled += actual - self.presumed.pop(dispatch, Decimal(0))

    def release(self, dispatch: str) -> None:
        """The reservation goes: nothing was spent."""
        self.held -= self.reserved.pop(dispatch, Decimal(0))
        self.dead.pop(dispatch, None)

    def await_bill(self, dispatch: str, *, until: float) -> None:
        """The dispatch is dead, and may have been paid for: its bill is waited for until then."""
        if dispatch in self.reserved:
            self.dead[dispatch] = until

    def overdue(self, *, now: float) -> list[str]:
        """Dead dispatches whose bill is not waited for any longer."""
        return [dispatch for dispatch, until in self.dead.items() if until <= now]

    def presume(self, dispatch: str) -> None:
        """Nobody will tell what it cost: the worst case counts."""
        amount = self.reserved[dispatch]
        self.release(dispatch)
        self.settled += amount
        self.presumed[dispatch] = amount

    def as_dict(self) -> dict[str, str | None]:
        """For manifests and progress: decimal strings."""
        cap = None if self.cap is None else str(self.cap)
        return {"settledUSD": str(self.settled), "reservedUSD": str(self.held), "capUSD": cap}
