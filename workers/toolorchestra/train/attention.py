"""Attention over packed documents, registered with transformers under the name `toolorchestra_packed`.

The path is chosen by device: variable-length flash attention on CUDA; on the CPU one causal SDPA call per group of
documents of equal length. FlexAttention has no CPU backward, and one block-masked SDPA call costs T². No path lets a
token see another document.

A segment may continue another one, the trunk that it shares with its siblings (family.py): its queries then see the
whole trunk and their own past. On the CPU that is one SDPA call per group of like branches, with the trunk's keys and
values in front of each branch's own.

Causal attention needs no mask for padding on the right: a padded key comes after every real query. So on the CPU,
documents of *nearly* equal length share a call, padded inside the attention only; each call has a fixed cost that
small models feel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

PACKED_ATTENTION = "toolorchestra_packed"

MAX_PADDING = 0.15
"""Largest share of padding that a group of documents may have before it is split."""


@dataclass(frozen=True)
class Group:
    """Neighbouring documents that share one SDPA call: `count` of at most `longest` tokens, from token `start`."""

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
    """Cut documents, in order, into groups whose padding stays below `max_padding`. Lengths should come sorted."""
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
    """Branches of one trunk that share a call. `group.start` is their first token among all branches' tokens."""

    trunk: int
    """Which segment they continue."""
    group: Group
    mask: Tensor
    """[longest, trunk + longest] bool: which keys each query sees"""


@dataclass(frozen=True)
class Documents:
    """Layout of the packed tokens, made once per micro-batch and handed to every layer.

    `lengths` of the segments; `parents` as in PackedBatch: first all that begin a document, then the branches, those of
    one trunk together. Absent: every segment is a document.
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
        """Of the roots."""
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
    def gather(self) -> tuple[tuple[Tensor, Tensor] | None, ...]:
        """Per group of roots, then per call of branches: ([count·longest] source token of each padded slot, [tokens]
        padded slot of each token)."""
        groups = [*self.groups, *(branches.group for branches in self.branches)]
        return tuple(None if group.uniform else _padding_indices(group) for group in groups)

    @cached_property
    def offsets(self) -> Tensor:
        """[documents + 1] int32, cumulative lengths, as variable-length kernels want them."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.device)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document, a trunk with its branch counted as one."""
        parents = self.parents or (None,) * len(self.lengths)
        return max(n if p is None else n + self.lengths[p] for n, p in zip(self.lengths, parents, strict=True))


def _padding_indices(group: Group) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor(group.lengths)
    slots = torch.arange(group.longest)
    starts = torch.cumsum(lengths, 0) - lengths
    real = slots[None] < lengths[:, None]
    source = starts[:, None] + torch.minimum(slots[None], lengths[:, None] - 1)
    return source.reshape(-1), real.reshape(-1).nonzero().squeeze(1)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """[documents, length, heads, dim] each → the same, causal inside each document."""
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2)


def _continued(
    query: Tensor, key: Tensor, value: Tensor, trunk: tuple[Tensor, Tensor], mask: Tensor, scale: float | None
) -> Tensor:
    """[branches, length, heads, dim] each → the same; every branch sees the trunk's keys and values [trunk, …] too."""
    n = query.shape[0]
    keys, values = (
        torch.cat([shared.expand(n, *shared.shape), own], dim=1).transpose(1, 2)
        for shared, own in zip(trunk, (key, value), strict=True)
    )
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), keys, values, attn_mask=mask, scale=scale, enable_gqa=query.shape[2] != key.shape[2]
    )
    return out.transpose(1, 2)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float | None) -> Tensor:
    """Per-document causal attention by SDPA: query [T, heads, dim], key, value [T, kv heads, dim] → [T, heads, dim]."""
    outputs = []
    # split and not narrow: its backward is one concatenation, narrow's is one zero-filled tensor of full size per group
    groups = [*documents.groups, *(branches.group for branches in documents.branches)]
    sizes = [group.tokens for group in groups]
    parts = zip(*(torch.split(t, sizes) for t in (query, key, value)), strict=True)
    cut = list(documents.lengths) if documents.branches else []
    trunks = list(zip(*(torch.split(t, cut) for t in (key, value)), strict=True)) if cut else []
    for number, (group, gather, part) in enumerate(zip(groups, documents.gather, parts, strict=True)):
        if gather is not None:
            part = tuple(t.index_select(0, gather[0]) for t in part)
        q, k, v = (t.view(group.count, group.longest, *t.shape[1:]) for t in part)
        if number < len(documents.groups):
            out = _causal(q, k, v, scale)
        else:
            branches = documents.branches[number - len(documents.groups)]
            out = _continued(q, k, v, trunks[branches.trunk], branches.mask, scale)
        out = out.flatten(0, 1)
        outputs.append(out if gather is None else out.index_select(0, gather[1]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float | None) -> Tensor:
    """The same on CUDA: one call of torch's variable-length flash attention (torch.nn.attention.varlen)."""
    from torch.nn.attention.varlen import varlen_attn

    offsets, longest = documents.offsets, documents.longest
    out = varlen_attn(
        query,
        key,
        value,
        offsets,
        offsets,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),  # no limit to the left, nothing to the right: causal
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)  # it is a tuple only where return_aux is given
    return out


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Documents,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, heads, T, dim] → ([1, T, heads, dim], None)."""
    if dropout or attention_mask is not None:
        raise NotImplementedError("packed attention takes neither dropout nor a mask")
    if sliding_window is not None and documents.longest > sliding_window:
        raise NotImplementedError(f"a document of {documents.longest} tokens exceeds the window of {sliding_window}")
    attend = varlen_attention if query.device.type == "cuda" else grouped_attention
    q, k, v = (t.squeeze(0).transpose(0, 1) for t in (query, key, value))
    return attend(q, k, v, documents, scaling).unsqueeze(0), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
