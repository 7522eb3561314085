"""Checks that the trainer computes what the model computes. It runs once at every start, for every model.

The packed path (our attention, our head, shared trunks) is compared with the model's own code on a few tiny documents:
transformers' eager attention, one whole document at a time, its own head. A new model family, a setting of a known one
or a release of transformers may add something that our path does not do. Without this check training would go on
without an error, with the gradients of a model that differs from the sampled one.

Invariants: the model's own values are computed in float32 on the CPU, before the model is placed. The packed path runs
in training mode, as in a step. Every rank runs the same check, so that the collectives of a sharded policy match.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolorchestra.trainer.attention import PACKED_ATTENTION, AttentionRefused
from toolorchestra.trainer.batch import TrainSample
from toolorchestra.trainer.family import Family, alone, families
from toolorchestra.trainer.model import ModelError, Policy
from toolorchestra.trainer.packing import pack

LONERS = (5, 33, 17)
"""Lengths in tokens of the documents that share nothing."""
TRUNK, BRANCHES = 12, (3, 9, 20)
"""Tokens that the siblings share, and the tokens that each adds."""


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted |Δ log p| in nats, over all tokens except the share `outliers`."""

    nats: float
    outliers: float = 0.0


FLOAT32 = Tolerance(1e-3)
FLOAT32_EXPERTS = Tolerance(1e-3, outliers=0.05)
"""For a mixture of experts: if two experts have the same score, rounding decides, and a token takes the other one."""
BFLOAT16 = Tolerance(0.25, outliers=0.1)
"""On CUDA, after float32 has agreed on the CPU. It only has to detect a kernel that computes something else."""


@dataclass(frozen=True)
class Own:
    """The values of the model's own code. N tokens; float32 on the CPU."""

    samples: tuple[TrainSample, ...]
    logprobs: Float32[Tensor, " trained"]
    """[N]: log probabilities of every token except the first of each document, document by document"""
    hidden: Float32[Tensor, "trained hidden"]
    """[N, hidden]: the inputs of its head for these tokens"""


def documents(vocabulary: int) -> tuple[TrainSample, ...]:
    """Return a few documents of random tokens, always the same ones. Three of them are siblings."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    trunk = ids(TRUNK)
    alone = [_sample(ids(count), untrained=1) for count in LONERS]
    return (*alone, *(_sample([*trunk, *ids(count)], untrained=TRUNK) for count in BRANCHES))


def _sample(ids: list[int], *, untrained: int) -> TrainSample:
    mask = [False] * untrained + [True] * (len(ids) - untrained)
    return TrainSample(ids, mask, [0.0] * len(ids))


@contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


@contextmanager
def _named(model: PreTrainedModel) -> Iterator[None]:
    """Raise ModelError for any error of the model's code, which was not written for packed documents."""
    kind = f"{type(model).__name__} cannot be trained here"
    try:
        yield
    except AttentionRefused as refused:
        raise ModelError(f"{kind}: {refused}") from refused
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(f"{kind}: it fails on packed documents ({type(error).__name__}: {error})") from error


@torch.no_grad()
def own_values(policy: Policy) -> Own:
    """Compute the values with the model's own code. Its attention and mode are restored afterwards."""
    model = policy.model
    samples = documents(policy.head_weight.shape[0])
    logprobs, hidden = [], []
    with _named(model), _mode(model, training=False), _eager(model):
        for sample in samples:
            ids = torch.tensor(sample.token_ids)
            trained = torch.tensor(sample.loss_mask).nonzero().squeeze(1)
            logits = model(input_ids=ids[None], use_cache=False).logits[0, trained - 1]
            logprobs.append(logits.float().log_softmax(-1).gather(1, ids[trained, None]).squeeze(1))
            hidden.append(model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, trained - 1])
    return Own(samples, torch.cat(logprobs), torch.cat(hidden))


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(PACKED_ATTENTION)


def largest(differences: Tensor, tolerance: Tolerance) -> float:
    """Return the largest difference that counts. A value that is not finite counts as infinite."""
    ordered = differences.abs().nan_to_num(nan=float("inf")).sort().values
    return float(ordered[len(ordered) - 1 - int(tolerance.outliers * len(ordered))])


def check_agreement(policy: Policy, own: Own, *, device: torch.device) -> float:
    """Compare, and return the largest |Δ log p| in nats. ModelError says which part of the path differs, and how much.

    Collective: every rank calls it. On CUDA the policy computes in bfloat16.
    """
    cuda = device.type == "cuda"
    tolerance = BFLOAT16 if cuda else FLOAT32_EXPERTS if _has_experts(policy.config) else FLOAT32
    units = alone(own.samples) if cuda else families(own.samples, limit=10_000)
    with _named(policy.model), _mode(policy, training=True):
        found = _packed(policy, own.samples, units, device)
        difference = largest(found - own.logprobs, tolerance)
        if difference <= tolerance.nats:
            return difference
        where = "on CUDA, in bfloat16; on the CPU it agrees" if cuda else _where(policy, own, tolerance)
    raise ModelError(
        f"{type(policy.model).__name__} cannot be trained here: the trainer's log probabilities differ from the "
        f"model's own by up to {difference:.3g} nats (at most {tolerance.nats:g} is tolerated): {where}"
    )


@torch.no_grad()
def _packed(policy: Policy, samples: Sequence[TrainSample], units: Sequence[Family], device: torch.device) -> Tensor:
    """Return [N] log probabilities in the samples' order, computed as in a step."""
    batch = pack(samples, [0.0] * len(samples), units).to(device)
    values = policy(batch)[0].cpu()
    counts = [samples[i].trained_tokens for unit in units for i in unit.members]
    parts = dict(zip((i for unit in units for i in unit.members), values.split(counts), strict=True))
    return torch.cat([parts[i] for i in range(len(samples))])


def _where(policy: Policy, own: Own, tolerance: Tolerance) -> str:
    """Return which part of the path makes the difference, tested from the outside in. On the CPU, unsharded."""

    def differs(logprobs: Tensor) -> bool:
        return largest(logprobs - own.logprobs, tolerance) > tolerance.nats

    def one_by_one() -> Tensor:
        return torch.cat([_packed(policy, [s], alone([s]), torch.device("cpu")) for s in own.samples])

    trained = one_by_one()
    if not differs(trained):
        together = _packed(policy, own.samples, alone(own.samples), torch.device("cpu"))
        if differs(together):
            return "documents that are packed together change one another, so something besides attention joins them"
        return "siblings that share their prompt's computation give other results than whole documents"
    with _mode(policy, training=False):
        evaluated = one_by_one()
    if not differs(evaluated):
        return "it computes something else in training mode (noise or dropout that no known setting names)"
    with torch.no_grad():
        hidden = [policy.hidden(batch)[batch.selected] for batch in (pack([s], [0.0]) for s in own.samples)]
    gap = float((torch.cat(hidden) - own.hidden).abs().max() / own.hidden.abs().max())
    if gap < 1e-4:
        return "the last hidden states agree, so its head does something with the logits that is not computed here"
    return f"its layers compute something that is not computed here (hidden states differ by {gap:.2g} of their size)"


def _has_experts(config: object) -> bool:
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return any(getattr(config, name, None) for name in names)
