"""A price book: prices by pool, function or `policy`, drawn per instance so that the policy learns to read prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from toolorchestra.tools.view import Price

POLICY = "policy"
"""The name under which a book prices the orchestrator's own tokens."""

OWN = "own"
"""Name of the book that changes nothing."""


@dataclass(frozen=True)
class PriceEntry:
    """One tool's line in a book. A part that is None stays the tool's own."""

    input_usd_per_million_tokens: Decimal | None = None
    output_usd_per_million_tokens: Decimal | None = None
    per_call_usd: Decimal | None = None

    def over(self, own: Price) -> Price:
        """`own` with this entry's parts in place of its."""
        given = {part: getattr(self, part) for part in Price.model_fields}
        return own.model_copy(update={part: price for part, price in given.items() if price is not None})


@dataclass(frozen=True)
class PriceBook:
    """Prices by tool name. A tool that is missing from the book keeps its own price."""

    name: str = OWN
    prices: Mapping[str, PriceEntry] = field(default_factory=dict[str, PriceEntry])

    def price(self, tool: str, *, own: Price) -> Price:
        entry = self.prices.get(tool)
        return own if entry is None else entry.over(own)
