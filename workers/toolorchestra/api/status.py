"""Status of an OrchestratorTraining: how far it is, what it cost, where its model lies."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from toolorchestra.api.base import LIST_MAP, OPEN, Model
from toolorchestra.api.conditions import CONDITION_LIST, Condition
from toolorchestra.api.model import ExpertPrice
from toolorchestra.api.scalars import USD, Fraction, Image, Name, NonNegative, Number, ShortText, SignedNumber, Word

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class TrainingMetrics(Model):
    """Decimal strings; of the last step, where nothing else is said."""

    model_config = OPEN

    reward: SignedNumber | None = None
    """Mean reward at the last evaluation; before the first one of the last step, where the combiner has a mean."""
    accuracy: Fraction | None = None
    """Share of right answers at the last evaluation; before the first one of the last step."""
    usd_per_task: USD | None = None
    """Nominal US dollars per task at the last evaluation; before the first one of the last step."""
    service_seconds_per_task: Number | None = None
    """Service seconds per task."""
    staleness: Number | None = None
    """Mean staleness in steps."""
    tokens_per_second: Number | None = None
    """Trained tokens per second."""
    trainer_idle_fraction: Fraction | None = None
    """Share of time that the trainer waited."""


class CheckpointStatus(Model):
    """The last committed checkpoint."""

    model_config = OPEN

    step: NonNegative
    """Its step."""
    uri: Annotated[str, Field(max_length=1024)]
    """Where it lies."""
    time: Time
    """When it was committed."""
    digest: ShortText
    """Digest of its manifest."""


class ResolvedExpert(Model):
    """An expert as it was when the training was admitted."""

    model_config = OPEN

    name: Name
    """Pool."""
    uid: ShortText
    """The pool's UID."""
    model: Annotated[str, Field(max_length=1024)]
    """Model it serves."""
    price: ExpertPrice
    """Its price."""


class RayStatus(Model):
    """The Ray cluster of the current attempt."""

    model_config = OPEN

    provider: Word
    """Who made it, `KubeRay` or `Builtin`; stays for the training's life."""
    name: ShortText
    """Its name."""
    image: Image | None = None
    """What its pods run."""


class OrchestratorTrainingStatus(Model):
    """What the operator sees, and what it must remember."""

    model_config = OPEN

    observed_generation: NonNegative | None = None
    """Generation of the spec that this status is about."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, json_schema_extra=CONDITION_LIST)
    """State, aspect by aspect."""
    attempt: NonNegative | None = None
    """Number of the current attempt."""
    step: NonNegative | None = None
    """Optimizer steps done."""
    policy_version: ShortText | None = None
    """Version that the engines serve."""
    progress_percentage: Annotated[NonNegative, Field(le=100)] | None = None
    """Steps done of those wanted."""
    estimated_remaining_seconds: NonNegative | None = None
    """How much longer, at the present pace."""
    restarts: NonNegative | None = None
    """Attempts that failed."""
    metrics: TrainingMetrics | None = None
    """The last step's metrics."""
    spent_usd: USD | None = None
    """US dollars spent so far, everything paid counted."""
    checkpoint: CheckpointStatus | None = None
    """The last committed checkpoint."""
    export_uri: Annotated[str, Field(max_length=1024)] | None = None
    """Where the finished model lies."""
    experts: tuple[ResolvedExpert, ...] = Field(default=(), max_length=256, json_schema_extra=LIST_MAP)
    """The experts, as resolved at admission."""
    ray: RayStatus | None = None
    """The Ray cluster."""
    start_time: Time | None = None
    """When it was admitted."""
    completion_time: Time | None = None
    """When it completed or failed."""
