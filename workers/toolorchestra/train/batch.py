"""What a training step takes and returns: samples, the step's settings, its metrics. Plain data, free of torch.

Invariant of a sample: `token_ids`, `loss_mask` and `logprobs` are aligned; `logprobs[i]` is the sampler's log
probability of token i where `loss_mask[i]` is set, and is not read elsewhere (write 0 there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

KLEstimator = Literal["k1", "k2", "k3", "half_delta_squared"]
Aggregation = Literal["token_mean", "sequence_mean"]


class NonFiniteStep(RuntimeError):
    """Loss or gradient is not finite: the step was not applied, the parameters are as before."""


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One training sequence with the advantage of the episode that it belongs to."""

    token_ids: Sequence[int]
    loss_mask: Sequence[bool]
    """Which tokens the policy sampled and is to be trained on; the first token has nothing before it and never is."""
    logprobs: Sequence[float]
    """Nats, from the engine that sampled, at temperature 1."""
    advantage: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        if not (len(self.loss_mask) == len(self.logprobs) == n):
            raise ValueError(
                f"a sample's fields must align: {n} token ids, {len(self.loss_mask)} in the mask, "
                f"{len(self.logprobs)} logprobs"
            )
        if n < 2:
            raise ValueError("a sample needs at least two tokens: the first one is never predicted")
        if self.loss_mask[0]:
            raise ValueError("the first token of a sample cannot be trained: nothing precedes it")

    @property
    def trained_tokens(self) -> int:
        return sum(map(bool, self.loss_mask))


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What a token's loss is computed with. Published recipe: method.md §4. None switches a correction off."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    """Cap of the loss at `dual_clip` x |A| where A < 0 (arXiv 1912.09729); the released recipe uses 10."""
    mask_band: tuple[float, float] | None = None
    """IcePop: tokens whose ratio to the sampler leaves [low, high] are masked (they stay in the token count)."""
    entropy_coefficient: float = 0.0
    kl_coefficient: float = 0.0
    kl_estimator: KLEstimator = "k3"


@dataclass(frozen=True, kw_only=True)
class StepConfig(LossConfig):
    """Settings of one optimizer step."""

    lr: float = 1e-6
    aggregation: Aggregation = "token_mean"
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    token_budget: int = 8192
    """Tokens of one packed micro-batch; a longer sequence travels alone."""


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """What one optimizer step did. Means are over the trained tokens of the global batch, on all ranks."""

    loss: float
    grad_norm: float
    """Before clipping."""
    entropy: float
    """Nats per trained token."""
    ratio_mean: float
    """Mean of policy / sampler probability: 1 where trainer and sampler agree."""
    ratio_max: float
    clip_fraction: float
    masked_fraction: float
    """Share of trained tokens that `mask_band` dropped."""
    approx_kl: float
    """k3 estimate of KL(sampler || policy), nats per token (http://joschu.net/blog/kl-approx.html)."""
    reference_kl: float | None
    tokens: int
    """All tokens that went through the model, prompts included."""
    trained_tokens: int
    micro_batches: int
    """Per rank."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by phase: pack, reference, forward, backward, optimizer, total."""
