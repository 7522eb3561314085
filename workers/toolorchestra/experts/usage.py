"""The usage of one expert call. It has the same fields as a trace's meter."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Usage:
    """Tokens, nominal and actual dollars, service and wall-clock seconds (method.md §3)."""

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    """The part of `tokens_in` that the endpoint served from its prefix cache."""
    nominal_usd: Decimal = Decimal(0)
    """Dollars by the instance's price book, which the policy was shown. Rewards use them."""
    actual_usd: Decimal = Decimal(0)
    """Dollars by the pool's own price that were, or may have been, spent; the sum of all attempts."""
    wasted_usd: Decimal = Decimal(0)
    """The part of `actual_usd` that failed attempts may have cost."""
    service_seconds: float = 0.0
    """Of the served attempt, from request sent to reply read; without queueing, back-off and failed attempts."""
    wall_seconds: float = 0.0
    """Of the whole call, from start to end."""
    simulated: bool = False
    """`service_seconds` was reported by a simulator, not measured."""
