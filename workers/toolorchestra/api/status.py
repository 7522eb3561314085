"""Status of an OrchestratorTraining: its progress, its cost, and where its model is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from toolorchestra.api.base import LIST_MAP, OPEN, Model
from toolorchestra.api.conditions import CONDITION_LIST, Condition
from toolorchestra.api.model import ExpertPrice
from toolorchestra.api.scalars import USD, Fraction, Image, Name, NonNegative, Number, ShortText, SignedNumber, Word

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class TrainingMetrics(Model):
    """Metrics as decimal strings; of the last step, if nothing else is said."""

    model_config = OPEN

    reward: SignedNumber | None = None
    """Mean reward at the last evaluation; before the first evaluation of the last step, if the combiner has a mean."""
    accuracy: Fraction | None = None
    """Share of right answers at the last evaluation; before the first evaluation of the last step."""
    usd_per_task: USD | None = None
    """Nominal US dollars per task at the last evaluation; before the first evaluation of the last step."""
    service_seconds_per_task: Number | None = None
    """Service seconds per task."""
    staleness: Number | None = None
    """Mean staleness in steps."""
    tokens_per_second: Number | None = None
    """Trained tokens per second."""
    trainer_idle_fraction: Fraction | None = None
    """Share of time in which the trainer waited."""


class CheckpointStatus(Model):
    """The last committed checkpoint."""

    model_config = OPEN

    step: NonNegative
    """Step of the checkpoint."""
    uri: Annotated[str, Field(max_length=1024)]
    """Location of the checkpoint."""
    time: Time
    """When it was committed."""
    digest: ShortText
    """Digest of the manifest."""


class ResolvedExpert(Model):
    """An expert as it was when the training was admitted."""

    model_config = OPEN

    name: Name
    """Name of the pool."""
    uid: ShortText
    """The pool's UID."""
    model: Annotated[str, Field(max_length=1024)]
    """Model that it serves."""
    price: ExpertPrice
    """Price of the expert."""


class RayStatus(Model):
    """The Ray cluster of the current attempt."""

    model_config = OPEN

    provider: Word
    """Who made the cluster, `KubeRay` or `Builtin`; it never changes for one training."""
    name: ShortText
    """Name of the cluster."""
    image: Image | None = None
    """Image of its pods."""


class OrchestratorTrainingStatus(Model):
    """The state that the operator observed, and what it must remember."""

    model_config = OPEN

    observed_generation: NonNegative | None = None
    """Generation of the spec that this status describes."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, json_schema_extra=CONDITION_LIST)
    """State, one condition per aspect."""
    attempt: NonNegative | None = None
    """Number of the current attempt."""
    step: NonNegative | None = None
    """Optimizer steps done."""
    policy_version: ShortText | None = None
    """Policy version that the engines serve."""
    progress_percentage: Annotated[NonNegative, Field(le=100)] | None = None
    """Share of all steps that are done, in percent."""
    estimated_remaining_seconds: NonNegative | None = None
    """Estimated remaining seconds at the current speed."""
    restarts: NonNegative | None = None
    """Failed attempts."""
    metrics: TrainingMetrics | None = None
    """The last step's metrics."""
    spent_usd: USD | None = None
    """US dollars paid so far, in all."""
    checkpoint: CheckpointStatus | None = None
    """The last committed checkpoint."""
    export_uri: Annotated[str, Field(max_length=1024)] | None = None
    """Location of the finished model."""
    experts: tuple[ResolvedExpert, ...] = Field(default=(), max_length=256, json_schema_extra=LIST_MAP)
    """The experts, as resolved at admission."""
    ray: RayStatus | None = None
    """The Ray cluster."""
    start_time: Time | None = None
    """When it was admitted."""
    completion_time: Time | None = None
    """When it completed or failed."""
