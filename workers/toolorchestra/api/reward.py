"""`spec.reward` and `spec.preferences`.

`reward.{combiner, weights: {outcome, cost, latency}, latency, min_range: {cost_usd, latency_milliseconds}, gate}`;
`preferences.{uri, fraction}`. Weights are Decimals; the combiners are described in method §3.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from toolorchestra.api.base import PARENT, Model
from toolorchestra.api.rules import rule, ruled
from toolorchestra.api.scalars import URI, USD, Bool, Fraction, Milliseconds, Number, PluginText


class Weights(Model):
    """Weights of the components, from "0" to "1", for a task without a preference; tools have weight 0."""

    model_config = ruled(
        rule(
            "double(self.outcome) > 0.0 || double(self.cost) > 0.0 || double(self.latency) > 0.0",
            "all weights are 0, so every episode is worth the same: give at least one a weight above 0",
            check=lambda s: any(Decimal(s[name]) > 0 for name in ("outcome", "cost", "latency")),
            defaulted=("outcome", "cost", "latency"),
        )
    )

    outcome: Number = Decimal("1")
    """Weight of a right answer."""
    cost: Number = Decimal("0.3")
    """Weight of the episode's cost (nominal US dollars). "0": cost does not count."""
    latency: Number = Decimal("0.2")
    """Weight of the episode's latency (seconds). "0": latency does not count."""


class MinRange(Model):
    """If a component varies less than this among siblings, it counts as equal; absent: any difference counts."""

    cost_usd: USD | None = None
    """Siblings whose costs differ by less, in US dollars, count as equally cheap, such as "0.0001"."""
    latency_milliseconds: Milliseconds | None = None
    """Siblings whose latencies differ by less, in milliseconds, count as equally fast, such as 200."""


def _weights_are_fractions(s: Mapping[str, Any]) -> bool:
    weights = s["weights"]
    raw = s["combiner"] == "WeightedSum" or "/" in s["combiner"]
    return raw or all(Decimal(weights[name]) <= 1 for name in ("outcome", "cost", "latency"))


class Reward(Model):
    """How an episode's raw components (outcome, cost, latency, calls) become one reward."""

    model_config = ruled(
        rule(
            "self.combiner == 'WeightedSum' || self.combiner.contains('/') || (double(self.weights.outcome) <= 1.0"
            " && double(self.weights.cost) <= 1.0 && double(self.weights.latency) <= 1.0)",
            "weights lie between 0 and 1, except with combiner WeightedSum (raw dollars and seconds) or a plug-in",
            check=_weights_are_fractions,
            at="weights",
            defaulted=("combiner", "weights"),
        ),
        rule(
            "self.gate || self.combiner == 'GDPO' || self.combiner.contains('/')",
            "only combiner GDPO, or a plug-in, has a gate to switch off",
            check=lambda s: s["gate"] or s["combiner"] == "GDPO" or "/" in s["combiner"],
            at="gate",
            defaulted=("combiner", "gate"),
        ),
    )

    combiner: Annotated[str, PluginText(("GDPO", "MinMaxDot", "WeightedSum"))] = "GDPO"
    """GDPO: each component is standardised over the group, then weighted. MinMaxDot: scaled to [0, 1], as published.
    WeightedSum: raw dollars and seconds, weighted. Or a plug-in's package/Name."""
    weights: Weights = Field(default_factory=Weights, json_schema_extra=PARENT)
    """Weights of outcome, cost and latency; a task with a preference has its own."""
    latency: Literal["Service", "WallClock"] = "Service"
    """Service: generation and tools only; WallClock: queueing and pauses too, as published."""
    min_range: MinRange = Field(default_factory=MinRange, json_schema_extra=PARENT)
    """Differences too small to count."""
    gate: Bool = True
    """GDPO: no right sibling ranks below a wrong one. false: as published."""


class Preferences(Model):
    """Instructions such as "keep it private", each with its weights, appended to a share of the tasks."""

    uri: URI | None = None
    """File of (instruction, weights) pairs; absent: generated from templates and the tools' attributes."""
    fraction: Fraction = Decimal("0.5")
    """Share of tasks with a preference."""
