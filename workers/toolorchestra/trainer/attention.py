"""Attention over packed documents, registered with transformers under the name `toolorchestra_packed`.

In no path does a token see another document. Plain attention (scale, sliding window) is one variable-length flash call
on CUDA. On the CPU it is one causal SDPA call per group of documents of similar length: FlexAttention has no CPU
backward, and one block-masked SDPA call costs T². CUDA also uses groups where flash attention has no kernel (float32,
heads of unusual width). What no fused kernel computes (a cap on the scores, sinks) is computed explicitly, per group,
on both devices.

Invariant: whatever a layer asks for is computed, or refused by name. An unknown keyword raises an error: an attention
that ignored it would train a model that differs from the sampled one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AttentionInterface, masking_utils
from transformers.masking_utils import AttentionMaskInterface

from toolorchestra.trainer.documents import Documents
from toolorchestra.trainer.errors import TrainerError

PACKED_ATTENTION = "toolorchestra_packed"

UNDERSTOOD = frozenset({"is_causal", "position_ids", "output_attentions", "output_hidden_states", "use_cache"})
"""Keywords that change nothing here: models pass them to every attention."""


class AttentionRefused(TrainerError, NotImplementedError):
    """A layer asks for attention that is not computed here. The message names what."""


@dataclass(frozen=True)
class Window:
    """Represents the mask of a layer that looks back `size` tokens, including the query's own."""

    size: int


@dataclass(frozen=True)
class Weighing:
    """How a layer turns scores into weights."""

    scale: float | None = None
    """None: one over the square root of the head's width."""
    window: int | None = None
    """Tokens that a query sees, including its own. None: all earlier tokens."""
    softcap: float | None = None
    """Scores become `softcap · tanh(score / softcap)` (Gemma 2)."""
    sinks: Float[Tensor, " heads"] | None = None
    """[heads]: an extra score per head that takes weight and adds nothing to the output (gpt-oss)."""

    @property
    def plain(self) -> bool:
        """Whether the fused kernels can compute it."""
        return self.softcap is None and self.sinks is None

    def narrow(self, mask: Bool[Tensor, "queries keys"], *, before: int = 0) -> Bool[Tensor, "queries keys"]:
        """Return a causal mask [queries, before + queries], restricted to the window."""
        return mask if self.window is None else mask & ~mask.tril(before - self.window)


def _attend(
    query: Float[Tensor, "n heads queries dim"],
    key: Float[Tensor, "n kv_heads keys dim"],
    value: Float[Tensor, "n kv_heads keys width"],
    mask: Bool[Tensor, "queries keys"] | None,
    how: Weighing,
) -> Float[Tensor, "n heads queries width"]:
    """Mask None: causal."""
    if how.plain:
        gqa = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=how.scale, enable_gqa=gqa
        )
    assert mask is not None
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if how.scale is None else how.scale)
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if how.sinks is not None:
        scores = torch.cat([scores, how.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return weights[..., : key.shape[2]] @ value


def _causal(
    query: Float[Tensor, "documents length heads dim"],
    key: Float[Tensor, "documents length kv_heads dim"],
    value: Float[Tensor, "documents length kv_heads width"],
    how: Weighing,
) -> Float[Tensor, "documents length heads width"]:
    """[documents, length, heads, dim] each → the same shape, causal within each document."""
    length = query.shape[1]
    mask = None
    if not how.plain or (how.window is not None and how.window < length):
        mask = how.narrow(torch.ones(length, length, dtype=torch.bool, device=query.device).tril())
    return _attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask, how).transpose(1, 2)


def _continued(
    query: Float[Tensor, "branches length heads dim"],
    key: Float[Tensor, "branches length kv_heads dim"],
    value: Float[Tensor, "branches length kv_heads width"],
    trunk: tuple[Float[Tensor, "trunk kv_heads dim"], Float[Tensor, "trunk kv_heads width"]],
    mask: Bool[Tensor, "length keys"],
    how: Weighing,
) -> Float[Tensor, "branches length heads width"]:
    """[branches, length, heads, dim] each → the same. Every branch also sees the trunk's keys and values [trunk, …]."""
    n = query.shape[0]
    keys, values = (
        torch.cat([shared.expand(n, *shared.shape), own], dim=1).transpose(1, 2)
        for shared, own in zip(trunk, (key, value), strict=True)
    )
    seen = how.narrow(mask, before=trunk[0].shape[0])
    return _attend(query.transpose(1, 2), keys, values, seen, how).transpose(1, 2)


def grouped_attention(
    query: Float[Tensor, "packed heads dim"],
    key: Float[Tensor, "packed kv_heads dim"],
    value: Float[Tensor, "packed kv_heads width"],
    documents: Documents,
    how: Weighing,
) -> Float[Tensor, "packed heads width"]:
    """Causal attention inside each document."""
    outputs = []
    # split, not narrow: its backward is one concatenation; that of narrow is a full-size zero tensor per group
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
            out = _causal(q, k, v, how)
        else:
            branches = documents.branches[number - len(documents.groups)]
            out = _continued(q, k, v, trunks[branches.trunk], branches.mask, how)
        out = out.flatten(0, 1)
        outputs.append(out if gather is None else out.index_select(0, gather[1]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@cache
def _grouping() -> dict[str, Any]:
    """Return how to tell torch's variable-length attention that heads are grouped; 2.11 needs no argument for it."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def varlen_attention(
    query: Float[Tensor, "packed heads dim"],
    key: Float[Tensor, "packed kv_heads dim"],
    value: Float[Tensor, "packed kv_heads dim"],
    documents: Documents,
    how: Weighing,
) -> Float[Tensor, "packed heads dim"]:
    """Compute the same on CUDA in one call, if `flash_takes` the tensors."""
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
        scale=how.scale,
        # tokens to the left besides the query's own (-1: all), and none to the right: causal
        window_size=(-1 if how.window is None else how.window - 1, 0),
        **(_grouping() if query.shape[1] != key.shape[1] else {}),
    )
    assert isinstance(out, Tensor)  # it is a tuple only if return_aux is given
    return out


def flash_takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether flash attention has a kernel for these: 16-bit numbers, one head width, a multiple of 8 ≤ 256."""
    width = query.shape[-1]
    sixteen = all(t.dtype in (torch.bfloat16, torch.float16) for t in (query, key, value))
    return sixteen and key.shape[-1] == value.shape[-1] == width and width <= 256 and width % 8 == 0


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Window | None,
    *,
    documents: Documents | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, heads, T, dim] → ([1, T, heads, dim], None). AttentionRefused."""
    if documents is None:
        raise AttentionRefused(f"{_kind(module)} does not pass on the ends of the documents in a packed batch")
    unknown = sorted(name for name, value in others.items() if value is not None and name not in UNDERSTOOD)
    if unknown:
        raise AttentionRefused(f"{_kind(module)} passes {', '.join(unknown)} to its attention, which is not known here")
    if dropout or isinstance(attention_mask, Tensor) or others.get("is_causal") is False:
        raise AttentionRefused(f"{_kind(module)} needs dropout, its own mask or attention that is not causal")
    how = Weighing(scaling, _window(module, attention_mask, sliding_window), softcap, s_aux)
    fused = query.device.type == "cuda" and how.plain and flash_takes(query, key, value)
    q, k, v = (t.squeeze(0).transpose(0, 1) for t in (query, key, value))
    attend = varlen_attention if fused else grouped_attention
    return attend(q, k, v, documents, how).unsqueeze(0), None


def _kind(module: torch.nn.Module) -> str:
    config = getattr(module, "config", None)
    return f"{type(module).__name__} (model type {getattr(config, 'model_type', 'unknown')})"


def _window(module: torch.nn.Module, mask: Window | None, keyword: int | None) -> int | None:
    """Return the window. Models state it twice: in the mask for eager attention, and as a keyword for flash kernels."""
    size = None if mask is None else mask.size
    if keyword is not None and keyword != size:
        raise AttentionRefused(f"{_kind(module)} names a window of {keyword} tokens, but its mask has one of {size}")
    return size


def packed_mask(*, config: Any, local_size: int | None = None, use_vmap: bool = False, **others: Any) -> Window | None:
    """transformers' mask interface: returns what a layer's mask says besides documents and causality."""
    # use_vmap: the model composes its own mask function; the bidirectional masks have their own keyword
    if use_vmap or "allow_is_bidirectional_skip" in others:
        raise AttentionRefused(f"a model of type {config.model_type} needs a mask that is not only causal")
    if local_size is None:
        return None
    if getattr(config, "attention_chunk_size", None) or local_size != config.sliding_window:
        raise AttentionRefused(f"a model of type {config.model_type} attends in chunks of {local_size} tokens")
    return Window(local_size)


@contextmanager
def documents_known() -> Iterator[None]:
    """Keep transformers from searching the position ids for documents, because `packed_mask` does not use them.

    The search reads from the device, so in every forward the host would wait for all queued work."""
    search = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda *args, **kwargs: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = search


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, packed_mask)
