"""Kubernetes quantities as numbers: "1", "1000m" and "1e0" are one amount, and compare as one."""

from __future__ import annotations

import re
from decimal import ROUND_UP, Decimal, InvalidOperation

from kubernetes.utils.quantity import parse_quantity

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
_NANO = Decimal("1e-9")


def amount(quantity: str | int | float) -> Decimal:
    """The amount of a quantity, rounded up to nanos as the API server does. ValueError: not a quantity."""
    text = str(quantity).strip()
    try:
        parsed = Decimal(text) if _EXPONENT.fullmatch(text) else Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]
        if not parsed.is_finite():
            raise ValueError(f"{quantity!r} is not a quantity")
        fine = parsed % _NANO != 0 if abs(parsed) < 1 else False
        return (parsed.quantize(_NANO, rounding=ROUND_UP) if fine else parsed).normalize()
    except InvalidOperation as error:
        raise ValueError(f"{quantity!r} is not a quantity") from error
