"""What one group of episodes sees of the tools: a subset, a price schedule, aliases. Stored with every trace."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Price(BaseModel):
    """Prices in US dollars; tokens are priced per million, in and out apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd_per_million_tokens: Decimal = Decimal(0)
    output_usd_per_million_tokens: Decimal = Decimal(0)
    per_call_usd: Decimal = Decimal(0)

    def of(self, *, tokens_in: int, tokens_out: int, calls: int = 1) -> Decimal:
        """Dollars for that many tokens and calls."""
        million = Decimal(1_000_000)
        return (
            self.input_usd_per_million_tokens * tokens_in / million
            + self.output_usd_per_million_tokens * tokens_out / million
            + self.per_call_usd * calls
        )


class Preference(BaseModel):
    """An instruction appended to the task, and the weight vector that goes with it.

    `weights` is keyed by pool or function name and by the reserved names `outcome`, `cost`, `latency`;
    each weight lies in [0, 1], and one is above 0 (method.md §3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str
    weights: dict[str, Annotated[Decimal, Field(ge=0, le=1)]]

    @field_validator("weights")
    @classmethod
    def _worth_something(cls, weights: dict[str, Decimal]) -> dict[str, Decimal]:
        if not any(weights.values()):
            raise ValueError("all weights are 0, so every episode is worth the same: give one a weight above 0")
        return weights


class ExpertView(BaseModel):
    """One expert as an episode sees it: `alias` in prompts, `pool` in ledgers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str
    pool: str
    description: str
    price: Price
    latency_ms: int


class InstanceView(BaseModel):
    """The instance's tools. Siblings of a group share one view."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    price_book: str
    policy_price: Price
    experts: tuple[ExpertView, ...]
    preference: Preference | None = None

    def expert(self, alias: str) -> ExpertView | None:
        """The expert behind an alias, or None where the episode knows no such alias."""
        return next((e for e in self.experts if e.alias == alias), None)
