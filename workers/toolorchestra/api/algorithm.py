"""`spec.algorithm` and `spec.warmStart`: how the policy is updated.

`algorithm.{type, steps, group_size, groups_per_step, learning_rate,
learning_rate_schedule: {warmup_steps, decay, decay_steps, final_fraction}, clip: {low, high, dual}, mask: {low, high},
objective, kl: {coefficient, estimator}, entropy_coefficient, aggregation, max_gradient_norm, weight_decay,
tokens_per_micro_batch, filters: {min_reward_std, informative, require_format, require_answer, when_short},
max_staleness, on_stale, seed}`. `warm_start.{steps, source, learning_rate, batch_size}`. Ratios are Decimals.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from toolorchestra.api.base import PARENT, Model
from toolorchestra.api.rules import rule, ruled
from toolorchestra.api.scalars import Bool, Count, Fraction, NonNegative, Number, PatternText, PluginText


class Clip(Model):
    """Clipping of the ratio between policy and sampler."""

    low: Fraction = Decimal("0.2")
    """The ratio is clipped at 1 − low."""
    high: Number = Decimal("0.28")
    """The ratio is clipped at 1 + high."""
    dual: Number | None = None
    """Dual clip: limit of the loss of a token with negative advantage, in multiples of the advantage (released: 10)."""


class Mask(Model):
    """Tokens whose ratio is outside the band are excluded from the loss (IcePop)."""

    model_config = ruled(
        rule(
            "double(self.low) < double(self.high)",
            "low must be less than high",
            check=lambda s: Decimal(s["low"]) < Decimal(s["high"]),
            at="low",
        )
    )

    low: Number
    """Smallest ratio that counts."""
    high: Number
    """Largest ratio that counts."""


class KL(Model):
    """Penalty on the distance from the initial policy."""

    coefficient: Number = Decimal("0")
    """Weight in the loss; 0: no reference model is kept."""
    estimator: Literal["K1", "K2", "K3", "HalfDeltaSquared"] = "K3"
    """Estimator of the divergence."""


class Filters(Model):
    """Groups and samples to exclude from the backward pass."""

    min_reward_std: Number = Decimal("0.1")
    """Groups whose rewards vary less are dropped; does not apply to combiner GDPO."""
    informative: Bool = False
    """Keep a group if its outcome or any weighted component varies."""
    require_format: Bool = True
    """Exclude samples that are not in the required format."""
    require_answer: Bool = True
    """Exclude episodes without a valid answer."""
    when_short: Literal["Refill", "Shrink"] = "Refill"
    """A step with too few groups: sample more (at most three times groupsPerStep), or train on fewer."""


class LearningRateSchedule(Model):
    """How the learning rate changes: warm-up, plateau, decay."""

    warmup_steps: NonNegative = 0
    """Steps in which it rises linearly to learningRate."""
    decay: Literal["None", "Linear", "Cosine"] = "None"
    """How it decays at the end."""
    decay_steps: Count | None = None
    """Length of the decay in steps, ending at the last step; absent: all steps after the warm-up."""
    final_fraction: Fraction = Decimal("0")
    """Final value, as a fraction of learningRate."""


class Algorithm(Model):
    """The reinforcement learning algorithm."""

    type: Literal["GRPO"] = "GRPO"
    """Advantages relative to the group."""
    steps: Count = 300
    """Optimizer steps."""
    group_size: Annotated[Count, Field(ge=2, le=1024)] = 8
    """Episodes per task; at least 2, because an advantage is relative to siblings."""
    groups_per_step: Annotated[Count, Field(le=65536)] = 16
    """Groups that one step trains on."""
    learning_rate: Number = Decimal("0.000001")
    """Peak learning rate of AdamW."""
    learning_rate_schedule: LearningRateSchedule = Field(default_factory=LearningRateSchedule, json_schema_extra=PARENT)
    """How the learning rate changes over the steps."""
    clip: Clip = Field(default_factory=Clip, json_schema_extra=PARENT)
    """Clipping of the ratio."""
    mask: Mask | None = None
    """Band of ratios that count; absent: all ratios count."""
    objective: Annotated[str, PluginText(("Clipped", "TIS", "Decoupled"))] = "Clipped"
    """Loss; it sets the correction for staleness and mismatch of the sampler. Or a plug-in's package/Name."""
    kl: KL = Field(default_factory=KL, json_schema_extra=PARENT)
    """Penalty on the distance from the initial policy."""
    entropy_coefficient: Number = Decimal("0")
    """Weight of the entropy bonus."""
    aggregation: Literal["TokenMean", "SequenceMean"] = "TokenMean"
    """Mean of the loss over all tokens, or of the means per sequence."""
    max_gradient_norm: Number = Decimal("1")
    """A gradient with a larger norm is scaled down to this norm."""
    weight_decay: Number = Decimal("0")
    """Weight decay of AdamW."""
    tokens_per_micro_batch: Annotated[Count, Field(ge=16)] = 8192
    """Tokens packed into one forward pass; a longer sequence gets its own pass."""
    filters: Filters = Field(default_factory=Filters, json_schema_extra=PARENT)
    """Groups and samples to exclude from training."""
    max_staleness: Annotated[NonNegative, Field(le=1000)] = 4
    """Most steps by which the policy that sampled a token may be older; 0: fully synchronous."""
    on_stale: Literal["Wait", "Drop"] = "Wait"
    """Episodes that would become too old: wait for them, or drop them and sample again (which favours short ones)."""
    seed: NonNegative = 0
    """Seed of all random choices except the tokens that the policy samples."""


TraceSource = Annotated[
    str,
    PatternText(
        r"^(FormatTraces|(hf|pvc|s3|file)://[^\s]+)$",
        "FormatTraces, or the URI of a file of traces",
        1024,
    ),
]


class WarmStart(Model):
    """Supervised steps before the reinforcement learning."""

    steps: Count = 200
    """Supervised steps."""
    source: TraceSource = "FormatTraces"
    """FormatTraces: generated by a naive router that only knows the format; or the URI of a file of traces."""
    learning_rate: Number = Decimal("0.00001")
    """Learning rate of the supervised steps."""
    batch_size: Annotated[Count, Field(le=65536)] = 32
    """Traces per step."""
