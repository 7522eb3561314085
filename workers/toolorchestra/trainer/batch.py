"""What a training step takes and returns: samples, the step's settings, its metrics. Plain data, free of torch.

Invariant of a sample: `token_ids`, `loss_mask` and `logprobs` are aligned; `logprobs[i]` is the sampler's log
probability of token i where `loss_mask[i]` is set, and is not read elsewhere (write 0 there).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from toolorchestra.trainer.errors import TrainerError

KLEstimator = Literal["k1", "k2", "k3", "half_delta_squared"]
Aggregation = Literal["token_mean", "sequence_mean"]

HEALTHY_K3 = (0.0004, 0.003)
"""Trainer against engine, nats per token, in bfloat16: where runs that learn are seen to lie."""
MOST_K3 = 0.015
"""Beyond it the two no longer compute one policy; prime-rl takes no change in whose runs the mean is above."""


class NonFiniteStep(TrainerError, RuntimeError):
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
    fresh: Sequence[bool] = ()
    """Which tokens were sampled with the weights that the step begins from; empty: none is known to be. Read where
    `loss_mask` is set."""

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        if not (len(self.loss_mask) == len(self.logprobs) == n):
            raise ValueError(
                f"a sample's fields must align: {n} token ids, {len(self.loss_mask)} in the mask, "
                f"{len(self.logprobs)} logprobs"
            )
        if len(self.fresh) not in (0, n):
            raise ValueError(f"a sample's fields must align: {n} token ids, {len(self.fresh)} in `fresh`")
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
    objective: str = "Clipped"
    """`Clipped`, or `package/Name` of a plug-in."""
    token_budget: int = 8192
    """Tokens of one packed micro-batch; a longer sequence travels alone."""


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Trainer against engine, on the trained tokens of the global batch that were sampled with the step's own weights
    (staleness 0). Tokens of older weights differ by what was learned, and do not count. objectives/mismatch.py."""

    k3: float
    """Estimate of KL(engine || trainer), nats per token."""
    rms: float
    """Root of the mean square of log p(trainer) - log p(engine), nats."""
    tokens: int
    """Over how many."""

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> Self | None:
        """From the sums of `mismatch_sums` over micro-batches and ranks; None where no token counts."""
        tokens = round(sums.get("fresh", 0.0))
        if tokens == 0:
            return None
        return cls(k3=sums["fresh_k3"] / tokens, rms=math.sqrt(sums["fresh_square"] / tokens), tokens=tokens)


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
    """k3 estimate of KL(sampler || policy), nats per token (http://joschu.net/blog/kl-approx.html). Staleness and
    mismatch together; `mismatch` is the latter alone."""
    reference_kl: float | None
    tokens: int
    """All tokens that went through the model, prompts included."""
    trained_tokens: int
    micro_batches: int
    """Per rank."""
    mismatch: Mismatch | None = None
    """None where no token of the step was sampled with the step's own weights."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by phase: pack, reference, forward, backward, optimizer, total."""
