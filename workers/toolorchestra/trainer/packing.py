"""Packing: puts sequences end to end into micro-batches, without padding, balanced over ranks by cost. Pure.

Invariants: every sequence (or family of them, family.py) is in exactly one micro-batch of one rank. Every rank has the
same number of micro-batches (so collectives match). A micro-batch has at most `token_budget` tokens, unless it is one
longer sequence. Every rank computes the same plan from the same batch, so nothing is exchanged.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from toolorchestra.trainer.batch import Aggregation, TrainSample
from toolorchestra.trainer.documents import send
from toolorchestra.trainer.family import Family, alone

Plan = tuple[tuple[tuple[int, ...], ...], ...]
"""plan[rank][step] = indices of the units (samples or families) in that micro-batch, shortest first"""


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch. `packed` tokens, of which `trained` are trained; all tensors on one device.

    Floats are float32. FSDP gives the model's forward a copy of them in the compute type, which nothing reads.
    """

    token_ids: Int64[Tensor, "1 packed"]
    position_ids: Int64[Tensor, "1 packed"]
    """From 0 in every document, branches included."""
    lengths: tuple[int, ...]
    """Tokens of each segment, in order; they sum to `packed`."""
    parents: tuple[int | None, ...]
    """The segment that each one continues (a family's trunk), None where it begins a document. Trunks come first."""
    selected: Int64[Tensor, " trained"]
    """Positions whose *next* token is trained."""
    targets: Int64[Tensor, " trained"]
    """That next token."""
    sampler_logprobs: Float[Tensor, " trained"]
    advantages: Float[Tensor, " trained"]
    weights: Float[Tensor, " trained"]
    """Share of each token in the loss; they sum to 1 over the global batch."""
    fresh: Bool[Tensor, " trained"]
    """Sampled with the weights that the step begins from."""

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on the device. The host does not wait for the copy."""
        if device.type == "cpu":
            return self
        moved = {name: send(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return PackedBatch(lengths=self.lengths, parents=self.parents, **moved)


def sequence_cost(length: int, *, hidden_size: int) -> float:
    """Return the work of a sequence in units of one token's linear layers: L + L² / (12 · hidden) for causal attention.

    Linear layers of a block cost about 24 · hidden² FLOPs per token, causal attention 2 · L · hidden.
    """
    return length + length * length / (12 * hidden_size)


def _fill(
    order: Sequence[int], lengths: Sequence[int], costs: Sequence[float], *, bins: int, budget: int
) -> list[list[int]]:
    """Put each sequence into the cheapest bin with room (longest processing time first). Empty if one does not fit."""
    heap = [(0.0, i) for i in range(bins)]
    used, members = [0] * bins, [[] for _ in range(bins)]  # type: tuple[list[int], list[list[int]]]
    for index in order:
        full = []
        while heap:
            cost, slot = heapq.heappop(heap)
            if not members[slot] or used[slot] + lengths[index] <= budget:
                break
            full.append((cost, slot))
        else:
            return []
        members[slot].append(index)
        used[slot] += lengths[index]
        for item in (*full, (cost + costs[index], slot)):
            heapq.heappush(heap, item)
    return members


def plan_batches(lengths: Sequence[int], *, ranks: int, token_budget: int, hidden_size: int) -> Plan:
    """Distribute sequences over `ranks` × equal numbers of micro-batches. A micro-batch may be empty."""
    costs = [sequence_cost(n, hidden_size=hidden_size) for n in lengths]
    order = sorted(range(len(lengths)), key=lambda i: (-costs[i], i))
    total = sum(min(n, token_budget) for n in lengths)
    steps = max(1, -(-total // (token_budget * ranks)))
    while not (bins := _fill(order, lengths, costs, bins=steps * ranks, budget=token_budget)):
        steps += 1
    # In every micro-batch ranks wait for each other, so bins of similar cost run at the same time.
    bins.sort(key=lambda members: (-sum(costs[i] for i in members), members))
    return tuple(
        tuple(tuple(sorted(bins[step * ranks + rank], key=lambda i: (lengths[i], i))) for step in range(steps))
        for rank in range(ranks)
    )


def token_weights(samples: Sequence[TrainSample], aggregation: Aggregation) -> list[float]:
    """Return per sample the weight of each trained token: 1 / all tokens, or 1 / (sequences · its tokens)."""
    counts = [sample.trained_tokens for sample in samples]
    total = sum(counts)
    if total == 0:
        raise ValueError("nothing to train: no sample of the batch has a trained token")
    if aggregation == "token_mean":
        return [1 / total] * len(counts)
    sequences = sum(1 for count in counts if count)
    return [1 / (sequences * count) if count else 0.0 for count in counts]


def pack(
    samples: Sequence[TrainSample], weights: Sequence[float], families: Sequence[Family] | None = None
) -> PackedBatch:
    """Put families end to end: first all trunks and single samples, then the branches, family by family.

    Trained tokens are listed family by family, member by member. `families` None: single samples, in order. Without
    samples: one token that is not trained, so that collectives match.
    """
    units = alone(samples) if families is None else families
    if not units:
        nothing = torch.zeros(0)
        zero, index = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        return PackedBatch(zero, zero, (1,), (None,), index, index, nothing, nothing, nothing, index.bool())
    layout = _lay(samples, units)
    order = [i for unit in units for i in unit.members]
    trained = [np.flatnonzero(np.asarray(samples[i].loss_mask, dtype=bool)) for i in order]
    counts = [len(t) for t in trained]
    contexts = [layout.places[i](t - 1) for i, t in zip(order, trained, strict=True)]

    def of_trained(name: str, dtype: type) -> Tensor:
        pairs = zip(order, trained, strict=True)
        values: list[NDArray[Any]] = [np.asarray(getattr(samples[i], name), dtype=dtype)[t] for i, t in pairs]
        return torch.from_numpy(np.concatenate(values))

    def of_sample(values: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.asarray(values, dtype=np.float32), counts))

    return PackedBatch(
        token_ids=torch.from_numpy(np.concatenate(layout.tokens))[None],
        position_ids=torch.from_numpy(np.concatenate(layout.positions))[None],
        lengths=tuple(len(part) for part in layout.tokens),
        parents=tuple(layout.parents),
        selected=torch.from_numpy(np.concatenate(contexts)),
        targets=of_trained("token_ids", np.int64),
        sampler_logprobs=of_trained("logprobs", np.float32),
        advantages=of_sample([samples[i].advantage for i in order]),
        weights=of_sample([weights[i] for i in order]),
        fresh=torch.from_numpy(np.concatenate([_fresh(samples[i])[t] for i, t in zip(order, trained, strict=True)])),
    )


def _fresh(sample: TrainSample) -> NDArray[np.bool_]:
    """Return a value per token. A sample without `fresh` has no fresh tokens."""
    return np.asarray(sample.fresh, dtype=bool) if len(sample.fresh) else np.zeros(len(sample.token_ids), dtype=bool)


Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Place:
    """Positions of a sample's tokens: the first `trunk` from `root` on, the others from `branch` on."""

    root: int
    trunk: int
    branch: int

    def __call__(self, index: Ints) -> Ints:
        """Return the packed positions of the sample's tokens at `index`."""
        return np.where(index < self.trunk, self.root + index, self.branch + index - self.trunk)


@dataclass
class _Layout:
    """Segments in packed order, and the place of every sample's tokens."""

    tokens: list[Ints] = field(default_factory=list[Ints])
    positions: list[Ints] = field(default_factory=list[Ints])
    parents: list[int | None] = field(default_factory=list[int | None])
    places: dict[int, _Place] = field(default_factory=dict[int, _Place])
    end: int = 0

    def add(self, tokens: Ints, *, position: int, parent: int | None) -> int:
        """Append a segment whose first token is at `position` of its sequence. Return where the segment starts."""
        start = self.end
        self.tokens.append(tokens)
        self.positions.append(np.arange(position, position + len(tokens), dtype=np.int64))
        self.parents.append(parent)
        self.end += len(tokens)
        return start


def _lay(samples: Sequence[TrainSample], units: Sequence[Family]) -> _Layout:
    layout = _Layout()
    roots: list[tuple[int, int]] = []
    for unit in units:
        tokens = np.asarray(samples[unit.members[0]].token_ids, dtype=np.int64)
        start = layout.add(tokens[: unit.trunk] if unit.trunk else tokens, position=0, parent=None)
        roots.append((start, len(layout.tokens) - 1))
        if not unit.trunk:
            layout.places[unit.members[0]] = _Place(start, len(tokens), start)
    for unit, (root, number) in zip(units, roots, strict=True):
        for i in unit.members if unit.trunk else ():
            tokens = np.asarray(samples[i].token_ids, dtype=np.int64)[unit.trunk :]
            branch = layout.add(tokens, position=unit.trunk, parent=number)
            layout.places[i] = _Place(root, unit.trunk, branch)
    return layout
