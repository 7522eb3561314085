"""Kubernetes quantities as numbers: "1", "1000m" and "1e0" are one amount, and are equal."""

from __future__ import annotations

import re
from decimal import ROUND_UP, Decimal

from kubernetes.utils.quantity import parse_quantity

_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(?P<exponent>[eE][+-]?\d+|)([numkMGTPE]|[KMGTPE]i|)")
_NANO = Decimal("1e-9")


def amount(quantity: str | int | float) -> Decimal:
    """Return the amount of a quantity, rounded up to nanos as the API server does. ValueError: not a quantity."""
    text = str(quantity)
    spelled = _QUANTITY.fullmatch(text)
    if not spelled or (spelled["exponent"] and spelled[3]):
        raise ValueError(f"{quantity!r} is not a quantity")
    try:
        parsed = Decimal(text) if spelled["exponent"] else Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]
        finer = abs(parsed) < 1 and parsed % _NANO != 0
        return (parsed.quantize(_NANO, rounding=ROUND_UP) if finer else parsed).normalize()
    except ArithmeticError as error:
        raise ValueError(f"{quantity!r} is not a quantity") from error
