"""The work that remains when an incarnation ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


async def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The functions to call at the end. Each stage of the start replaces its own (`dataclasses.replace`)."""

    step: Callable[[], int] = lambda: 0
    """Returns the step at which the incarnation ends."""
    money: Callable[[], dict[str, Any]] = dict[str, Any]
    """Returns the status fields of the spend; none before the ledger is open."""
    withdraw: Callable[[], Awaitable[None]] = _nothing
    """Withdraws queued orders, so that no worker runs them at our cost."""
    save: Callable[[], Awaitable[None]] = _nothing
    """Writes a checkpoint and exports the model."""
    tell: Callable[[], Awaitable[None]] = _nothing
    """Publishes the last status."""
