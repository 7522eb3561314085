"""The warm start: supervised steps on token sequences, with the trainer's packing, optimizer and checkpoints.

It gives RL a policy that writes the format. RL itself teaches what is right and what is worth its price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from toolorchestra.trainer.batch import StepConfig, TrainSample
from toolorchestra.trainer.objectives.likelihood import likelihood
from toolorchestra.trainer.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class SupervisedMetrics:
    loss: float
    """Nats per trained token."""
    grad_norm: float
    entropy: float
    tokens: int
    trained_tokens: int
    seconds: dict[str, float] = field(default_factory=dict)


def supervised_sample(token_ids: Sequence[int], loss_mask: Sequence[bool]) -> TrainSample:
    """Return a sample whose masked tokens the policy must imitate."""
    return TrainSample(token_ids, loss_mask, (0.0,) * len(token_ids))


def supervised_step(trainer: Trainer, samples: Sequence[TrainSample], config: StepConfig) -> SupervisedMetrics:
    """Run one optimizer step of cross entropy; `config` gives the optimizer and packing settings. Collective."""
    update = trainer.update(samples, config, likelihood)
    return SupervisedMetrics(
        loss=update.loss,
        grad_norm=update.grad_norm,
        entropy=update.sums["entropy"],
        tokens=update.tokens,
        trained_tokens=update.trained_tokens,
        seconds=update.seconds,
    )
