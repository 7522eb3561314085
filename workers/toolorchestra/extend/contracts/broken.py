"""What a broken contract is told with."""

from __future__ import annotations


class ContractBroken(AssertionError):
    """An extension does not do what its protocol says. The text says what, and where."""


def hold(true: bool, otherwise: str) -> None:
    """ContractBroken with that text, unless `true`."""
    if not true:
        raise ContractBroken(otherwise)
