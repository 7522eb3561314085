"""What a run that ends has still to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


async def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Ending:
    """By how far the incarnation came: every stage that comes up puts its part in (`dataclasses.replace`)."""

    step: Callable[[], int] = lambda: 0
    """The step at which it ends."""
    money: Callable[[], dict[str, Any]] = dict[str, Any]
    """The status' fields of what was spent; none before the ledger is open."""
    withdraw: Callable[[], Awaitable[None]] = _nothing
    """Take back what is queued: nobody is to play it and be paid for it."""
    save: Callable[[], Awaitable[None]] = _nothing
    """Checkpoint and export what there is."""
    tell: Callable[[], Awaitable[None]] = _nothing
    """Tell the last status."""
