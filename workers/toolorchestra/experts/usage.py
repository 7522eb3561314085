"""What one expert call used. Field for field what a trace's meter stores."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Usage:
    """Tokens, dollars on both ledgers, seconds on both clocks (method.md §3)."""

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    """Of `tokens_in`, how many the endpoint served from its prefix cache."""
    nominal_usd: Decimal = Decimal(0)
    """By the instance's price book: what the policy was shown and is rewarded by."""
    actual_usd: Decimal = Decimal(0)
    """By the pool's own price: what was, or may have been, spent, all attempts together."""
    wasted_usd: Decimal = Decimal(0)
    """Of `actual_usd`, what attempts that failed may have cost."""
    service_seconds: float = 0.0
    """Of the attempt that was served, from request sent to reply read. No queueing, no back-off, no failed attempts."""
    wall_seconds: float = 0.0
    """From the call to its end, all of it."""
    simulated: bool = False
    """`service_seconds` is what a simulator said, not what a clock measured."""
