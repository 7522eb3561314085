"""Price books: prices by pool, function or `policy`. One is drawn per instance, so the policy learns to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from toolorchestra.tools.view import Price

POLICY = "policy"
"""Name of the entry for the orchestrator's own tokens."""

OWN = "own"
"""Name of the book that changes no price."""


@dataclass(frozen=True)
class PriceEntry:
    """The prices of one tool in a book. None: the tool's own price stays."""

    input_usd_per_million_tokens: Decimal | None = None
    output_usd_per_million_tokens: Decimal | None = None
    per_call_usd: Decimal | None = None

    def over(self, own: Price) -> Price:
        """Return the price `own` with this entry's values in place of its own."""
        given = {part: getattr(self, part) for part in Price.model_fields}
        return own.model_copy(update={part: price for part, price in given.items() if price is not None})


@dataclass(frozen=True)
class PriceBook:
    """Prices by tool name. A tool that is not in the book keeps its own price."""

    name: str = OWN
    prices: Mapping[str, PriceEntry] = field(default_factory=dict[str, PriceEntry])

    def price(self, tool: str, *, own: Price) -> Price:
        entry = self.prices.get(tool)
        return own if entry is None else entry.over(own)
