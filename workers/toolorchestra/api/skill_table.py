"""SkillTable: the accuracy, latency and faults of simulated experts. A local file, not a custom resource.

Read it as `table.spec.{seed, experts}`, `table.expert(model)`, and per expert `accuracy_of(topic)`,
`tokens_out_of(topic)`, `tokens_in` (None: the prompt's real length), `latency_milliseconds.{p50, p99}` and
`faults.{http500, http429, garbage, hang}` (fractions of calls, Decimals). `name` is the model that a request asks for:
an Endpoint pool's `endpoint.model`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from toolorchestra.api.base import LIST_MAP, PARENT, ApiVersion, Model
from toolorchestra.api.metadata import ObjectMeta
from toolorchestra.api.resource import Resource
from toolorchestra.api.rules import rule, ruled
from toolorchestra.api.scalars import Count, Fraction, Milliseconds, NonNegative, ShortText


class Skill(Model):
    """Accuracy of the expert at topics that are not listed."""

    accuracy: Fraction
    """Share of tasks that it gets right."""


class TopicSkill(Model):
    """Accuracy of the expert at one topic."""

    topic: ShortText
    """Topic of a task; for reasoning-gym the name of the dataset."""
    accuracy: Fraction
    """Share of the topic's tasks that it gets right."""
    tokens_out: Count | None = None
    """Tokens of an answer on this topic; absent: the expert's tokensOut."""


class LatencyProfile(Model):
    """Service time of one call: lognormal through these two quantiles."""

    model_config = ruled(
        rule(
            "self.p99 >= self.p50",
            "p99 must be at least p50",
            check=lambda s: s["p99"] >= s["p50"],
            at="p99",
        )
    )

    p50: Milliseconds
    """Median."""
    p99: Milliseconds
    """99th percentile; if equal to p50, every call takes that long."""


class Faults(Model):
    """Shares of calls that fail, each in one way."""

    model_config = ruled(
        rule(
            "double(self.http500) + double(self.http429) + double(self.garbage) + double(self.hang) <= 1.0",
            "the shares of failing calls add up to more than 1",
            check=lambda s: sum(Decimal(s[name]) for name in ("http500", "http429", "garbage", "hang")) <= 1,
        )
    )

    http500: Fraction = Decimal("0")
    """Answers 500."""
    http429: Fraction = Decimal("0")
    """Answers 429 with Retry-After."""
    garbage: Fraction = Decimal("0")
    """Answers 200 with a body that is not a completion."""
    hang: Fraction = Decimal("0")
    """Never answers."""


class SimulatedExpert(Model):
    """One expert of the simulator."""

    name: ShortText
    """Model that requests ask for: an Endpoint pool's `endpoint.model`."""
    default: Skill
    """Accuracy at every topic that is not listed."""
    topics: tuple[TopicSkill, ...] = Field(
        default=(),
        max_length=256,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["topic"]},
    )
    """Skill by topic."""
    tokens_out: Count = 120
    """Tokens of an answer."""
    tokens_in: NonNegative | None = None
    """Prompt tokens to report; absent: the real number."""
    latency_milliseconds: LatencyProfile
    """Service time of one call."""
    faults: Faults = Field(default_factory=Faults, json_schema_extra=PARENT)
    """Shares of calls that fail."""

    def _topic(self, topic: str) -> TopicSkill | None:
        return next((skill for skill in self.topics if skill.topic == topic), None)

    def accuracy_of(self, topic: str) -> Decimal:
        """Return the share of the topic's tasks that the expert gets right."""
        skill = self._topic(topic)
        return skill.accuracy if skill else self.default.accuracy

    def tokens_out_of(self, topic: str) -> int:
        """Return the tokens of an answer on the topic."""
        skill = self._topic(topic)
        return (skill.tokens_out if skill else None) or self.tokens_out


class SkillTableSpec(Model):
    """The simulated experts."""

    seed: NonNegative = 0
    """Seed that decides right or wrong per (expert, task), so that sibling episodes get consistent answers."""
    experts: Annotated[tuple[SimulatedExpert, ...], Field(min_length=1, max_length=256, json_schema_extra=LIST_MAP)]
    """The experts."""


class SkillTable(Resource):
    """Accuracy, latency and faults of the simulator's experts."""

    api_version: ApiVersion
    kind: Literal["SkillTable"]
    metadata: ObjectMeta | None = None
    spec: SkillTableSpec
    """The simulated experts."""

    def expert(self, model: str) -> SimulatedExpert | None:
        """Return the expert that a request for this model reaches, or None."""
        return next((expert for expert in self.spec.experts if expert.name == model), None)
