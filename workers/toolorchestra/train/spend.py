"""Money under the cap: an issue reserves its worst case before it is published, and settles with what it really cost.

Invariant: settled + reserved ≤ cap, so the run never spends more than `maxSpendUSD`, whatever workers or results do. A
dead issue keeps its reservation until its late result settles it, and one whose worker is gone settles at its worst
case: what it spent meanwhile is unknown, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass
class Spend:
    """`cap` None: nothing is bounded, everything is counted."""

    cap: Decimal | None = None
    settled: Decimal = Decimal(0)
    reserved: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    held: Decimal = Decimal(0)
    """Dollars reserved by issues whose bill has not come: the sum of `reserved`, kept as it changes."""

    def __post_init__(self) -> None:
        self.held = sum(self.reserved.values(), Decimal(0))

    def room_for(self, *, issues: int, each: Decimal) -> int:
        """How many of `issues` new sendings at a worst case of `each` dollars fit under the cap."""
        if self.cap is None or each <= 0:
            return issues
        return max(0, min(issues, int((self.cap - self.settled - self.held) / each)))

    def reserve(self, issue: str, amount: Decimal) -> None:
        """Set the worst case of an issue aside; ValueError where the cap has no room (ask `room_for` first)."""
        if self.cap is not None and self.settled + self.held + amount > self.cap:
            raise ValueError(f"the spend cap of ${self.cap} has no room for ${amount}")
        if amount > 0:
            self.reserved[issue] = amount
            self.held += amount

    def bill(self, issue: str, actual: Decimal | None) -> Decimal:
        """Dollars that the issue counts: `actual`, or the worst case reserved for it (0 without a cap) if unknown."""
        return self.reserved.get(issue, Decimal(0)) if actual is None else actual

    def settle(self, issue: str, actual: Decimal) -> None:
        """The bill of an issue: its reservation goes, the actual dollars count."""
        self.held -= self.reserved.pop(issue, Decimal(0))
        self.settled += actual

    def as_dict(self) -> dict[str, str | None]:
        """For manifests and progress: decimal strings."""
        cap = None if self.cap is None else str(self.cap)
        return {"settledUSD": str(self.settled), "reservedUSD": str(self.held), "capUSD": cap}
