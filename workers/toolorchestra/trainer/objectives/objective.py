"""Input and output of an objective. All tensors [N]: the trained tokens of one packed micro-batch, float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from jaxtyping import Bool, Float
from torch import Tensor

from toolorchestra.trainer.batch import LossConfig

MAX_LOG_RATIO = 20.0
"""Limit of log ratios. exp(20) is far outside every clip; above it float32 overflows, and one token would dominate."""


@dataclass(frozen=True)
class LossInputs:
    """What a loss may look at."""

    logprobs: Float[Tensor, " trained"]
    """[N] the policy's, with gradient"""
    entropy: Float[Tensor, " trained"]
    """[N] the policy's, with gradient"""
    sampler_logprobs: Float[Tensor, " trained"]
    """[N] of the engine that sampled"""
    advantages: Float[Tensor, " trained"]
    """[N]"""
    weights: Float[Tensor, " trained"]
    """[N] share of each token; they sum to 1 over the *global* batch, so sums over micro-batches and ranks are means"""
    reference_logprobs: Float[Tensor, " trained"] | None = None
    """[N] of the frozen reference; only with a KL term"""
    fresh: Bool[Tensor, " trained"] | None = None
    """[N] bool: sampled with the very weights that the policy has now, so that any difference is mismatch"""


@dataclass(frozen=True)
class LossOutputs:
    """The loss, and what else is worth telling of it."""

    loss: Tensor
    """[]: this micro-batch's part of the loss. Parts add up"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """[] each, detached: weighted sums that add up to means"""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """[] each, detached"""


class Objective(Protocol):
    """The loss of one packed micro-batch. Called under autograd, on the trainer's device, on every rank."""

    def __call__(self, inputs: LossInputs) -> LossOutputs: ...


ObjectiveMaker = Callable[[LossConfig], Objective]
"""What an entry point of the group `toolorchestra.objectives` refers to: a class, or a function, of the settings."""
