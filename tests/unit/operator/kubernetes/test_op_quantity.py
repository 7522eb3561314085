"""Quantities are compared by amount."""

from __future__ import annotations

from decimal import Decimal

import pytest

from toolorchestra_operator.kubernetes.quantity import amount


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1000m"),
        ("1Gi", "1024Mi"),
        (2, "2"),
        (0.5, "500m"),
        ("1e3", "1k"),
        ("1E3", "1000"),
        ("12E", "12000P"),
        ("0.1n", "1n"),
        ("1.5Gi", "1536Mi"),
        ("-1", "-1000m"),
        (".5", "500m"),
    ],
)
def test_two_spellings_of_one_amount(one: str | int | float, other: str) -> None:
    assert amount(one) == amount(other)


def test_amounts_that_differ() -> None:
    assert amount("1G") < amount("1Gi")
    assert amount("8Gi") == Decimal(8 * 2**30)


@pytest.mark.parametrize("text", ["", "abc", "1Zi", "1ki", "NaN", "inf", "1 Gi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        amount(text)
