"""The layout of packed tokens for attention: documents, branches that continue a trunk, groups that share a call. Pure.

A segment may continue another one, the trunk that it shares with its siblings (family.py). Its queries then see the
whole trunk and their own past. Causal attention needs no mask for padding on the right, because a padded key comes
after every real query. So documents of *similar* length share a call, padded inside the attention only. Each call has a
fixed cost, which matters for small models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

MAX_PADDING = 0.15
"""Largest share of padding in a group of documents; above it, the group is split."""


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device.

    To CUDA it is copied through pinned memory: a copy from pageable memory makes the host wait for all queued work."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Group:
    """Neighbouring documents in one SDPA call: `count` documents of at most `longest` tokens, from token `start` on."""

    start: int
    lengths: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def uniform(self) -> bool:
        return self.count * self.longest == self.tokens


def group_documents(lengths: Sequence[int], *, max_padding: float = MAX_PADDING) -> tuple[Group, ...]:
    """Divide documents, in order, into groups whose padding is below `max_padding`. Lengths should be sorted."""
    groups: list[Group] = []
    start, members = 0, []  # type: tuple[int, list[int]]
    for length in lengths:
        longest, tokens = max([*members, length]), sum(members) + length
        if members and longest * (len(members) + 1) - tokens > max_padding * tokens:
            groups.append(Group(start, tuple(members)))
            start, members = start + sum(members), []
        members.append(length)
    if members:
        groups.append(Group(start, tuple(members)))
    return tuple(groups)


@dataclass(frozen=True)
class Branches:
    """Branches of one trunk that share a call. `group.start` is their first token among the tokens of all branches."""

    trunk: int
    """The segment that they continue."""
    group: Group
    mask: Bool[Tensor, "longest keys"]
    """[longest, trunk + longest] bool: the keys that each query sees"""


@dataclass(frozen=True)
class Documents:
    """The layout of the packed tokens. It is made once per micro-batch and passed to every layer.

    `lengths`: of the segments. `parents`: as in PackedBatch; first the segments that begin a document, then the
    branches, with those of one trunk together. None: every segment is a document.
    """

    lengths: tuple[int, ...]
    device: torch.device
    parents: tuple[int | None, ...] | None = None

    @cached_property
    def roots(self) -> tuple[int, ...]:
        """Lengths of the segments that begin a document."""
        return self.lengths if self.parents is None else self.lengths[: self.parents.count(None)]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Groups of the roots."""
        return group_documents(self.roots)

    @cached_property
    def branches(self) -> tuple[Branches, ...]:
        """Calls for the branches, in order."""
        parents = () if self.parents is None else self.parents[len(self.roots) :]
        lengths = self.lengths[len(self.roots) :]
        found, start, i = [], 0, 0  # type: tuple[list[Branches], int, int]
        while i < len(parents):
            trunk = parents[i]
            assert trunk is not None
            family = lengths[i : i + parents.count(trunk)]
            for group in group_documents(family):
                size = self.lengths[trunk]
                mask = torch.ones(group.longest, size + group.longest, dtype=torch.bool, device=self.device)
                found.append(Branches(trunk, Group(start + group.start, group.lengths), mask.tril(size)))
            start += sum(family)
            i += len(family)
        return tuple(found)

    @cached_property
    def gather(self) -> tuple[tuple[Int64[Tensor, " slots"], Int64[Tensor, " tokens"]] | None, ...]:
        """Indices for padding, per group of roots and then per call of branches; None for a group without padding.

        [count·longest]: source token of each padded slot. [tokens]: padded slot of each token."""
        groups = [*self.groups, *(branches.group for branches in self.branches)]
        return tuple(None if group.uniform else _padding_indices(group, self.device) for group in groups)

    @cached_property
    def offsets(self) -> Int32[Tensor, " boundaries"]:
        """[documents + 1] int32: cumulative lengths, for variable-length kernels."""
        return send(torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32), self.device)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document. A trunk with one branch counts as one document."""
        parents = self.parents or (None,) * len(self.lengths)
        return max(n if p is None else n + self.lengths[p] for n, p in zip(self.lengths, parents, strict=True))


def _padding_indices(group: Group, device: torch.device) -> tuple[Int64[Tensor, " slots"], Int64[Tensor, " tokens"]]:
    lengths = torch.tensor(group.lengths)
    slots = torch.arange(group.longest)
    starts = torch.cumsum(lengths, 0) - lengths
    real = slots[None] < lengths[:, None]
    source = starts[:, None] + torch.minimum(slots[None], lengths[:, None] - 1)
    return send(source.reshape(-1), device), send(real.reshape(-1).nonzero().squeeze(1), device)
