"""A price book: prices by pool, function or `policy`, drawn per instance so that the policy learns to read prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolorchestra.tools.view import Price

POLICY = "policy"
"""The name under which a book prices the orchestrator's own tokens."""

OWN = "own"
"""Name of the book that changes nothing."""


@dataclass(frozen=True)
class PriceBook:
    """Prices by tool name. A tool that is missing from the book keeps its own price."""

    name: str = OWN
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])

    def price(self, tool: str, *, own: Price) -> Price:
        return self.prices.get(tool, own)
