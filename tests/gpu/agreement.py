"""How far the trainer's log probabilities are from the engine's, and whether the engine says what its weights say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from gpu.finding import Figure
from toolorchestra.trainer.batch import TrainSample
from toolorchestra.trainer.trainer import Trainer

K3 = 0.015
"""Gate of the mean k3 estimate, nats a token: prime-rl merges below it; healthy runs have 0.0004 to 0.003."""


@dataclass(frozen=True)
class Agreement:
    """Over sampled tokens, with δ = log p(trainer) − log p(engine), in nats."""

    tokens: int
    mean: float
    """Of |δ|."""
    p99: float
    """Of |δ|."""
    k3: float
    """Mean of e^δ − 1 − δ, which estimates KL(engine || trainer) (http://joschu.net/blog/kl-approx.html)."""
    rms: float
    """Root of the mean δ²."""

    def figures(self, name: str, *, gate: float | None = None) -> Iterator[Figure]:
        yield Figure(name=f"{name}: tokens", value=self.tokens)
        yield Figure(name=f"{name}: mean |Δ log p|", value=self.mean, unit="nats")
        yield Figure(name=f"{name}: p99 |Δ log p|", value=self.p99, unit="nats")
        yield Figure(name=f"{name}: k3", value=self.k3, unit="nats", at_most=gate)
        yield Figure(name=f"{name}: RMS of the log-ratio", value=self.rms, unit="nats")


def agreement(deltas: Sequence[float]) -> Agreement:
    """Of δ over all tokens; at least one."""
    ordered = sorted(abs(delta) for delta in deltas)
    n = len(ordered)
    return Agreement(
        tokens=n,
        mean=sum(ordered) / n,
        p99=ordered[min(n - 1, math.ceil(0.99 * n) - 1)],
        k3=sum(math.expm1(delta) - delta for delta in deltas) / n,
        rms=math.sqrt(sum(delta * delta for delta in deltas) / n),
    )


def deltas(trainer: Trainer, samples: Sequence[TrainSample]) -> list[float]:
    """Trainer's minus engine's log probability of every sampled token."""
    own = trainer.logprobs(samples)
    return [
        mine - theirs
        for index, sample in enumerate(samples)
        for mine, theirs, trained in zip(own[index], sample.logprobs, sample.loss_mask, strict=True)
        if trained
    ]


@dataclass(frozen=True)
class Choices:
    """Greedy tokens of an engine, beside those of the model's own code after the same text."""

    equal: float
    """Share of them that are the model's most likely ones."""
    gap: float
    """Mean of the nats by which the model's most likely token is ahead of the engine's: 0 where all are equal."""
    worst: float

    def figures(self, name: str, *, equal: float | None = None, worst: float | None = None) -> Iterator[Figure]:
        yield Figure(name=f"{name}: greedy tokens that are equal", value=self.equal, at_least=equal)
        yield Figure(name=f"{name}: mean gap to the most likely token", value=self.gap, unit="nats")
        yield Figure(name=f"{name}: largest gap", value=self.worst, unit="nats", at_most=worst)


@torch.no_grad()
def choices(model: PreTrainedModel, samples: Sequence[TrainSample]) -> Choices:
    """By induction over the positions, what the model decodes greedily; where two tokens are nearly as likely, rounding
    decides, so gaps tell more than equality in bfloat16."""
    gaps = []
    for sample in samples:
        ids = torch.tensor(sample.token_ids, device=model.device)
        at = torch.tensor(sample.loss_mask, device=model.device).nonzero().squeeze(1)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, at - 1].float()
        gaps.append((logits.amax(-1) - logits.gather(1, ids[at, None]).squeeze(1)).cpu())
    found = torch.cat(gaps)
    return Choices(float((found == 0).float().mean()), float(found.mean()), float(found.max()))


def model_of(snapshot: Path, folder: Path, *, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model's own code in transformers with a snapshot's weights; `folder` tells what it is."""
    from safetensors.torch import load_file

    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    absent, unexpected = model.load_state_dict(load_file(snapshot, device=device), strict=False)
    assert not unexpected, unexpected
    assert set(absent) <= {"lm_head.weight"}, absent  # a tied head
    model.tie_weights()
    return model.eval()


def same_weights(snapshot: Path, trainer: Trainer, *, dtype: torch.dtype) -> float:
    """Share of the tensors of a snapshot that are the trainer's weights, bit for bit."""
    from safetensors import safe_open

    with safe_open(snapshot, framework="pt", device=str(trainer.device)) as file:
        equal = [torch.equal(file.get_tensor(name), whole) for name, whole in trainer.full_tensors(dtype)]
    return sum(equal) / len(equal)
