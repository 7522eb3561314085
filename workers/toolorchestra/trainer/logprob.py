"""Log probability and entropy of chosen tokens, without an array of tokens × vocabulary.

The forward processes chunks of tokens and keeps one number per token (the log normaliser). The backward computes each
chunk's logits again. Softmax and sums are in float32, whatever the type of the weights: a bfloat16 log-softmax has
errors of 1e-2. Logits are float32 too if torch's product can produce it (CUDA); else they have the type of hidden
states and weight.

The factors of a gradient's rows (the token's share of the loss, the head's scale) are not applied to [n, v], but to the
factors [n, h] of the following products. Besides the products, passes over a chunk take most of the head's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.autograd import Function

from toolorchestra.trainer.footprint import chunk_tokens


@dataclass(frozen=True)
class Logits:
    """How a model computes logits from its head's products, before the softmax: first the scale, then the cap."""

    scale: float = 1.0
    softcap: float | None = None
    """Logits become `softcap · tanh(logit / softcap)`."""

    def apply_(self, products: Float[Tensor, "n vocabulary"]) -> Float[Tensor, "n vocabulary"]:
        """Return the logits, computed in place."""
        if self.scale != 1.0:
            products.mul_(self.scale)
        return products if self.softcap is None else products.div_(self.softcap).tanh_().mul_(self.softcap)


PLAIN = Logits()


@cache
def _widens(device: str, dtype: torch.dtype) -> bool:
    """Return whether torch can multiply such matrices into a float32 one: on CUDA, since 2.8."""
    return device == "cuda" and dtype != torch.float32 and hasattr(torch.ops.aten.mm, "dtype")


@cache
def _adds_wide(device: str, dtype: torch.dtype) -> bool:
    """Return whether torch can add such a product to a float32 matrix in one call. Not in all releases, so try it."""
    if not _widens(device, dtype):
        return False
    one, total = torch.ones(16, 16, dtype=dtype, device=device), torch.ones(16, 16, device=device)
    try:
        torch.ops.aten.addmm.dtype_out(total, one, one, torch.float32, out=total)
    except (AttributeError, RuntimeError):
        return False
    return bool((total == 17).all())


def _product(left: Float[Tensor, "n k"], right: Float[Tensor, "k m"]) -> Float32[Tensor, "n m"]:
    """[n, k] @ [k, m] → [n, m] in float32."""
    if _widens(left.device.type, left.dtype):
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()


def _add_product(total: Float32[Tensor, "n m"], left: Float[Tensor, "n k"], right: Float[Tensor, "k m"]) -> None:
    """total [n, m] float32 += [n, k] @ [k, m]."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif _adds_wide(left.device.type, left.dtype):
        torch.ops.aten.addmm.dtype_out(total, left, right, torch.float32, out=total)
    else:
        total += _product(left, right)


class _TokenLogprobs(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, head: Logits
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # so that the gradient of an unused entropy is None
        logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        entropy, normaliser = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = head.apply_(_product(hidden[part], weight.t()))
            largest = logits.amax(-1)
            logits.sub_(largest[:, None])
            odds = logits.exp()
            total = odds.sum(-1)
            log_total = total.log()
            logprobs[part] = logits.gather(1, targets[part, None]).squeeze(1) - log_total
            # H = log Σ e^z - Σ e^z z / Σ e^z, with z relative to the largest logit, so that both terms are small
            entropy[part] = log_total - odds.mul_(logits).sum(-1) / total
            normaliser[part] = largest + log_total
        ctx.save_for_backward(hidden, weight, targets, entropy, normaliser)
        ctx.chunk, ctx.head = chunk, head
        return logprobs, entropy

    @staticmethod
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, entropy, normaliser = ctx.saved_tensors
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(entropy)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        one_chunk = hidden.shape[0] <= ctx.chunk
        grad_weight = None
        if ctx.needs_input_grad[1] and not one_chunk:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, hidden.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            grad_logits, rows = _grad_products(
                ctx.head.apply_(_product(hidden[part], weight.t())),
                normaliser[part],
                targets[part],
                grad_logprobs[part],
                None if grad_entropy is None else (grad_entropy[part], entropy[part]),
                ctx.head,
                weight.dtype,
            )
            if grad_hidden is not None:
                grad_hidden[part] = torch.mm(grad_logits, weight).mul_(rows)
            if not ctx.needs_input_grad[1]:
                continue
            scaled = (hidden[part] * rows).to(weight.dtype)
            if grad_weight is None:
                grad_weight = grad_logits.t() @ scaled
            else:
                _add_product(grad_weight, grad_logits.t(), scaled)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight) if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None


def _grad_products(
    logits: Float32[Tensor, "n vocabulary"],
    normaliser: Float32[Tensor, " n"],
    targets: Int64[Tensor, " n"],
    grad: Float32[Tensor, " n"],
    of_entropy: tuple[Float32[Tensor, " n"], Float32[Tensor, " n"]] | None,
    head: Logits,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "n vocabulary"], Float32[Tensor, "n 1"]]:
    """Return the gradient of a chunk's products [n, v], as a matrix in `dtype` and a factor [n, 1] for its rows.

    `logits` [n, v] float32 is overwritten. `grad` [n] is the gradient of the log probabilities; `of_entropy` has the
    gradient of the entropies and the entropies. d logp_t / d z = 1[t] - p;  dH / d z = -p (log p + H).
    """
    slope = None if head.softcap is None else 1 - (logits / head.softcap).square_()
    log_p, index = logits.sub_(normaliser[:, None]), targets[:, None]
    if of_entropy is None:
        # p - 1[t]; its multiplier is in the rows' factor. Written directly in `dtype` if no other operation follows
        at_target = torch.expm1(log_p.gather(1, index))
        out = log_p if slope is not None or dtype == log_p.dtype else torch.empty_like(log_p, dtype=dtype)
        matrix = torch.exp(log_p, out=out)
        matrix.scatter_(1, index, at_target.to(matrix.dtype))
        rows = -head.scale * grad[:, None]
    else:
        # g (p - 1[t]) + g_H p (log p + H); the sign is in the rows' factor
        grad_entropy, entropy = of_entropy
        matrix = log_p.exp()
        matrix.mul_(log_p.add_(entropy[:, None]).mul_(grad_entropy[:, None]).add_(grad[:, None]))
        matrix.scatter_add_(1, index, -grad[:, None])
        rows = torch.full_like(grad[:, None], -head.scale)
    return (matrix if slope is None else matrix.mul_(slope)).to(dtype), rows


def token_logprobs(
    hidden: Float[Tensor, "trained hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    targets: Int64[Tensor, " trained"],
    *,
    chunk: int | None = None,
    head: Logits = PLAIN,
) -> tuple[Float32[Tensor, " trained"], Float32[Tensor, " trained"]]:
    """Return the log probability of `targets` and the entropy of the distribution, both [N] float32, in nats.

    `hidden` [N, h]: final hidden states (after the norm). `weight` [V, h]: the head's. `targets` [N] int64. `chunk`:
    tokens at a time; None: the choice of footprint.py for the device.
    """
    size = chunk or chunk_tokens(weight.shape[0], cuda=hidden.device.type == "cuda")
    logprobs, entropy = _TokenLogprobs.apply(hidden, weight, targets, size, head)  # type: ignore[no-untyped-call]
    return logprobs, entropy


def dense_token_logprobs(
    hidden: Float[Tensor, "trained hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    targets: Int64[Tensor, " trained"],
    *,
    head: Logits = PLAIN,
) -> tuple[Float32[Tensor, " trained"], Float32[Tensor, " trained"]]:
    """Compute the same without chunks; for parity tests only."""
    logits = (hidden @ weight.t()).float() * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    log_p = torch.log_softmax(logits, dim=-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(-1)
