"""Log probability and entropy of chosen tokens, without ever holding tokens × vocabulary.

The forward walks over chunks of tokens and keeps one number per token (the log normaliser); the backward computes each
chunk's logits again. In float32 whatever the weights' type is: a bfloat16 log-softmax is off by 1e-2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

CHUNK_ELEMENTS = 1 << 22
"""Logits held at a time (16 MiB in float32): large enough for fast matrix products, small beside any model."""


def chunk_tokens(vocabulary: int) -> int:
    """Tokens of one chunk for a vocabulary, at least 16."""
    return max(16, CHUNK_ELEMENTS // vocabulary)


@dataclass(frozen=True)
class Logits:
    """What a model makes of its head's products before the softmax: first the scale, then the cap."""

    scale: float = 1.0
    softcap: float | None = None
    """Logits become `softcap · tanh(logit / softcap)`."""

    def apply_(self, products: Tensor) -> Tensor:
        """The logits, in place."""
        if self.scale != 1.0:
            products.mul_(self.scale)
        return products if self.softcap is None else products.div_(self.softcap).tanh_().mul_(self.softcap)

    def backward_(self, grad: Tensor, logits: Tensor | None) -> Tensor:
        """The products' gradient of the logits', in place. `logits`, read where there is a cap: what `apply_` gave."""
        if self.softcap is not None and logits is not None:
            grad.mul_(1 - (logits / self.softcap).square_())
        return grad if self.scale == 1.0 else grad.mul_(self.scale)


PLAIN = Logits()


def _log_softmax(hidden: Tensor, weight: Tensor, head: Logits) -> tuple[Tensor, Tensor]:
    """[n, h], [v, h] → (log probabilities [n, v] float32, log normaliser [n])."""
    logits = head.apply_((hidden @ weight.t()).float())
    normaliser = torch.logsumexp(logits, dim=-1)
    return logits.sub_(normaliser[:, None]), normaliser


class _TokenLogprobs(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, head: Logits
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            log_p, _ = _log_softmax(hidden[part], weight, head)
            logprobs[part] = log_p.gather(1, targets[part, None]).squeeze(1)
            entropy[part] = -(log_p.exp() * log_p).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, entropy)
        ctx.chunk, ctx.head = chunk, head
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_logprobs, grad_entropy = grads
        hidden, weight, targets, entropy = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        with_entropy = bool(torch.any(grad_entropy != 0))
        for start in range(0, hidden.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            log_p, normaliser = _log_softmax(hidden[part], weight, ctx.head)
            probabilities = log_p.exp()
            logits = None if ctx.head.softcap is None else log_p + normaliser[:, None]
            # d logp_t / d z = 1[t] - p;  dH / d z = -p (log p + H)
            scale = grad_logprobs[part, None].neg()
            if with_entropy:
                log_p.add_(entropy[part, None]).mul_(grad_entropy[part, None]).neg_().add_(scale)
                grad_logits = probabilities.mul_(log_p)
            else:
                grad_logits = probabilities.mul_(scale)
            grad_logits.scatter_add_(1, targets[part, None], grad_logprobs[part, None])
            grad_logits = ctx.head.backward_(grad_logits, logits).to(weight.dtype)
            if grad_hidden is not None:
                torch.mm(grad_logits, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += grad_logits.t() @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int | None = None, head: Logits = PLAIN
) -> tuple[Tensor, Tensor]:
    """Log probability of `targets` and entropy of the distribution, both [N] float32, in nats.

    `hidden` [N, h] are the final hidden states (after the norm), `weight` [V, h] the head's, `targets` [N] int64.
    """
    vocabulary = weight.shape[0]
    logprobs, entropy = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, chunk or chunk_tokens(vocabulary), head
    )
    return logprobs, entropy


def dense_token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, head: Logits = PLAIN
) -> tuple[Tensor, Tensor]:
    """The same in one piece, for parity tests only."""
    logits = (hidden @ weight.t()).float() * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    log_p = torch.log_softmax(logits, dim=-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(-1)
