"""The view of the tools for one group of episodes: a subset, prices, aliases. Stored with every trace."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Price(BaseModel):
    """Prices in US dollars: per million input tokens, per million output tokens, and per call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd_per_million_tokens: Decimal = Decimal(0)
    output_usd_per_million_tokens: Decimal = Decimal(0)
    per_call_usd: Decimal = Decimal(0)

    def of(self, *, tokens_in: int, tokens_out: int, calls: int = 1) -> Decimal:
        """Return the US dollars for that many tokens and calls."""
        million = Decimal(1_000_000)
        return (
            self.input_usd_per_million_tokens * tokens_in / million
            + self.output_usd_per_million_tokens * tokens_out / million
            + self.per_call_usd * calls
        )


class Preference(BaseModel):
    """An instruction that is appended to the task, and its weights.

    Keys of `weights`: pool and function names, and the reserved names `outcome`, `cost`, `latency`. Each weight lies in
    [0, 1], and at least one is above 0 (method.md §3).
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
    """One expert in an episode: `alias` is its name in prompts, `pool` its name in ledgers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str
    pool: str
    description: str
    price: Price
    latency_ms: int


class InstanceView(BaseModel):
    """The tools of an instance. All siblings of a group share one view."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    price_book: str
    policy_price: Price
    experts: tuple[ExpertView, ...]
    preference: Preference | None = None

    def expert(self, alias: str) -> ExpertView | None:
        """Return the expert with an alias; None: the view has no such alias."""
        return next((e for e in self.experts if e.alias == alias), None)
