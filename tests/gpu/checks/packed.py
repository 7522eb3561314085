"""Packed against dense: log probabilities and gradient norm of documents end to end, and of one at a time by
transformers' own attention in float32.

bfloat16 has no tolerance of its own: the packed path must be as near to float32 as transformers' own bfloat16 is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from gpu.finding import Figure, Finding
from gpu.models import TINY, Shape, write_model
from gpu.place import Place
from toolorchestra.trainer.batch import StepConfig, TrainSample
from toolorchestra.trainer.model import load_policy
from toolorchestra.trainer.packing import pack, token_weights
from toolorchestra.trainer.trainer import Trainer, TrainerConfig

SMALL = Shape(hidden=512, layers=6, intermediate=1536, heads=8, kv_heads=2, head_dim=64, vocabulary=8192, tied=True)
WEIGHTS = 0.04
"""Standard deviation of the weights: with a width of 512, as far from even chances as a trained model's."""
FLOAT32_NATS, FLOAT32_NORM = 1e-3, 1e-3
"""Largest |Δ log p|, relative Δ of the gradient norm: order of summation, and no more."""
AS_NEAR = 1.5
"""Packed bfloat16's mean error over dense bfloat16's, at most: both round, differently."""
BFLOAT16_NORM = 0.03


@dataclass(frozen=True)
class Answer:
    """Log probabilities [N] of the trained tokens, sample by sample, and the norm of the loss's gradient."""

    logprobs: Tensor
    norm: float


def check(place: Place) -> Iterator[Finding]:
    shape = TINY if place.tiny else SMALL
    folder = write_model(place.scratch / "model", shape, device="cpu", dtype=torch.float32, spread=WEIGHTS)
    samples = documents(shape.vocabulary, count=12 if place.tiny else 48, longest=80 if place.tiny else 900)
    yield Figure(name="documents", value=len(samples))
    yield Figure(name="tokens", value=sum(len(s.token_ids) for s in samples))
    right = dense(folder, samples, device=place.device, dtype=torch.float32)
    samples = [_with_logprobs(sample, part) for sample, part in zip(samples, _split(right, samples), strict=True)]
    rough = dense(folder, samples, device=place.device, dtype=torch.bfloat16)
    rounding = float((rough.logprobs - right.logprobs).abs().mean())
    yield from against("bfloat16, dense", rough, right)
    own = packed(folder, samples, place.device, torch.bfloat16)
    yield from against("bfloat16, packed", own, right, rounding=rounding)
    yield from against("trainer", trained(folder, samples, place.device), right, rounding=rounding)
    yield from against("float32, packed", packed(folder, samples, place.device, torch.float32), right, exact=True)


def against(
    name: str, found: Answer, right: Answer, *, exact: bool = False, rounding: float | None = None
) -> Iterator[Figure]:
    """How far an answer is from the right one. `rounding`: mean |Δ| of dense bfloat16, which is the measure."""
    off = (found.logprobs - right.logprobs).abs()
    yield Figure(name=f"{name}: largest |Δ log p|", value=float(off.max()), at_most=FLOAT32_NATS if exact else None)
    mean = None if rounding is None else AS_NEAR * rounding + 1e-6
    yield Figure(name=f"{name}: mean |Δ log p|", value=float(off.mean()), at_most=mean)
    norm = FLOAT32_NORM if exact else BFLOAT16_NORM if rounding is not None else None
    yield Figure(name=f"{name}: gradient norm, relative Δ", value=abs(found.norm / right.norm - 1), at_most=norm)


def documents(vocabulary: int, *, count: int, longest: int) -> list[TrainSample]:
    """Random ones of 2 to `longest` tokens, half of their tokens trained; the first two are of the extreme lengths."""
    rng = random.Random(0)
    samples = []
    for number in range(count):
        length = (2, longest)[number] if number < 2 else rng.randint(2, longest)
        mask = [False] + [rng.random() < 0.5 for _ in range(length - 2)] + [True]
        ids = [rng.randrange(vocabulary) for _ in range(length)]
        samples.append(TrainSample(ids, mask, [0.0] * length, rng.gauss(0, 1)))
    return samples


def loss_of(logprobs: Tensor, samples: Sequence[TrainSample]) -> Tensor:
    """What a first step on its own samples minimises: −Σ advantage · log p / tokens."""
    advantages = torch.tensor([s.advantage for s in samples for _ in range(s.trained_tokens)], device=logprobs.device)
    return -(advantages * logprobs).sum() / len(advantages)


def norm_of(module: nn.Module) -> float:
    return float(torch.stack([p.grad.float().norm() for p in module.parameters() if p.grad is not None]).norm())


def dense(folder: Path, samples: Sequence[TrainSample], *, device: str, dtype: torch.dtype) -> Answer:
    """By transformers alone: eager attention, one whole document at a time, its own head."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").to(device)
    total = sum(sample.trained_tokens for sample in samples)
    parts = []
    for sample in samples:
        ids = torch.tensor(sample.token_ids, device=device)
        at = torch.tensor(sample.loss_mask, device=device).nonzero().squeeze(1)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, at - 1]
        logprobs = logits.float().log_softmax(-1).gather(1, ids[at, None]).squeeze(1)
        (loss_of(logprobs, [sample]) * (sample.trained_tokens / total)).backward()
        parts.append(logprobs.detach())
    return Answer(torch.cat(parts).cpu(), norm_of(model))


def packed(folder: Path, samples: Sequence[TrainSample], device: str, dtype: torch.dtype) -> Answer:
    """All documents in one packed batch, through the trainer's policy in one type throughout."""
    policy = load_policy(folder).to(device).train()
    for parameter in policy.parameters():  # and no buffer: the rotary frequencies stay in float32, as in the trainer
        parameter.data = parameter.data.to(dtype)
    batch = pack(samples, token_weights(samples, "token_mean")).to(torch.device(device))
    logprobs, _ = policy(batch)
    loss_of(logprobs, samples).backward()
    return Answer(logprobs.detach().cpu(), norm_of(policy))


def trained(folder: Path, samples: Sequence[TrainSample], device: str) -> Answer:
    """By the trainer: its own mixture of types, several micro-batches; the gradient's norm as a step says it."""
    trainer = Trainer(TrainerConfig(model_dir=str(folder), device=device))
    budget = max(len(sample.token_ids) for sample in samples) * 2
    found = trainer.logprobs(samples, token_budget=budget)
    values = [p for i, s in enumerate(samples) for p, trained in zip(found[i], s.loss_mask, strict=True) if trained]
    # Its ratio to the sampler is about 1 everywhere, so nothing may be clipped: the loss is then loss_of's.
    free = StepConfig(lr=0.0, clip_low=0.9, clip_high=10.0, token_budget=budget)
    return Answer(torch.tensor(values), trainer.step(samples, free).grad_norm)


def _split(answer: Answer, samples: Sequence[TrainSample]) -> list[list[float]]:
    return [part.tolist() for part in answer.logprobs.split([s.trained_tokens for s in samples])]


def _with_logprobs(sample: TrainSample, values: Sequence[float]) -> TrainSample:
    """The sample as if an engine with the right log probabilities had made it."""
    each = iter(values)
    logprobs = [next(each) if trained else 0.0 for trained in sample.loss_mask]
    return TrainSample(sample.token_ids, sample.loss_mask, logprobs, sample.advantage)
