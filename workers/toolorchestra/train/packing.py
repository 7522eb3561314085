"""Packing: sequences laid end to end in micro-batches, without padding, balanced over ranks by cost. Pure.

Invariants: every sample is in exactly one micro-batch of one rank; every rank has the same number of micro-batches
(collectives pair up); a micro-batch holds at most `token_budget` tokens unless it is one longer sequence. Every rank
computes the same plan from the same batch, so nothing is exchanged.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toolorchestra.train.batch import Aggregation, TrainSample

Plan = tuple[tuple[tuple[int, ...], ...], ...]
"""plan[rank][step] = indices of the samples in that micro-batch, shortest first (equal lengths are neighbours)."""


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch. T = packed tokens, N = trained tokens; all tensors on one device."""

    token_ids: Tensor
    """[1, T] int64"""
    position_ids: Tensor
    """[1, T] int64, from 0 in every document"""
    lengths: tuple[int, ...]
    """Tokens of each document, in order; they sum to T."""
    selected: Tensor
    """[N] int64: positions whose *next* token is trained"""
    targets: Tensor
    """[N] int64: that next token"""
    sampler_logprobs: Tensor
    """[N] float32"""
    advantages: Tensor
    """[N] float32"""
    weights: Tensor
    """[N] float32: share of each token in the loss; they sum to 1 over the global batch"""

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def to(self, device: torch.device) -> PackedBatch:
        if device.type == "cpu":
            return self
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return PackedBatch(lengths=self.lengths, **moved)


def sequence_cost(length: int, *, hidden_size: int) -> float:
    """Work of a sequence in units of one token's linear layers: L + L² / (12 · hidden) for causal attention.

    Linear layers of a block cost about 24 · hidden² FLOPs a token, causal attention 2 · L · hidden.
    """
    return length + length * length / (12 * hidden_size)


def _fill(
    order: Sequence[int], lengths: Sequence[int], costs: Sequence[float], *, bins: int, budget: int
) -> list[list[int]]:
    """Longest-processing-time-first: each sequence into the cheapest bin with room; empty list where none has room."""
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
    """Distribute sequences over `ranks` × equal numbers of micro-batches. An empty micro-batch is possible."""
    costs = [sequence_cost(n, hidden_size=hidden_size) for n in lengths]
    order = sorted(range(len(lengths)), key=lambda i: (-costs[i], i))
    total = sum(min(n, token_budget) for n in lengths)
    steps = max(1, -(-total // (token_budget * ranks)))
    while not (bins := _fill(order, lengths, costs, bins=steps * ranks, budget=token_budget)):
        steps += 1
    # Ranks meet in every micro-batch, so bins of like cost run side by side.
    bins.sort(key=lambda members: (-sum(costs[i] for i in members), members))
    return tuple(
        tuple(tuple(sorted(bins[step * ranks + rank], key=lambda i: (lengths[i], i))) for step in range(steps))
        for rank in range(ranks)
    )


def token_weights(samples: Sequence[TrainSample], aggregation: Aggregation) -> list[float]:
    """Per sample, the weight of each of its trained tokens: 1 / all tokens, or 1 / (sequences · its tokens)."""
    counts = [sample.trained_tokens for sample in samples]
    total = sum(counts)
    if total == 0:
        raise ValueError("nothing to train: no sample of the batch has a trained token")
    if aggregation == "token_mean":
        return [1 / total] * len(counts)
    sequences = sum(1 for count in counts if count)
    return [1 / (sequences * count) if count else 0.0 for count in counts]


def pack(samples: Sequence[TrainSample], weights: Sequence[float]) -> PackedBatch:
    """Lay samples end to end. No samples: a one-token stand-in without trained tokens, so that collectives pair up."""
    if not samples:
        nothing = torch.zeros(0)
        zero, index = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        return PackedBatch(zero, zero, (1,), index, index, nothing, nothing, nothing)
    lengths = tuple(len(sample.token_ids) for sample in samples)
    tokens = np.concatenate([np.asarray(s.token_ids, dtype=np.int64) for s in samples])
    mask = np.concatenate([np.asarray(s.loss_mask, dtype=bool) for s in samples])
    logprobs = np.concatenate([np.asarray(s.logprobs, dtype=np.float32) for s in samples])
    advantages = np.repeat(np.asarray([s.advantage for s in samples], dtype=np.float32), lengths)
    shares = np.repeat(np.asarray(weights, dtype=np.float32), lengths)
    trained = np.flatnonzero(mask)
    return PackedBatch(
        token_ids=torch.from_numpy(tokens)[None],
        position_ids=torch.from_numpy(np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]))[None],
        lengths=lengths,
        selected=torch.from_numpy(trained - 1),
        targets=torch.from_numpy(tokens[trained]),
        sampler_logprobs=torch.from_numpy(logprobs[trained]),
        advantages=torch.from_numpy(advantages[trained]),
        weights=torch.from_numpy(shares[trained]),
    )
