"""Replaces a model's norms, gated MLPs and rotary embeddings by fused kernels, with one pass over memory each.

Unfused, the element-wise kernels of a step on a GPU take longer than its matrix products. The kernels are from
liger-kernel (Triton). Only this model instance is changed. A module is chosen by what it computes, not by its name: it
gets a few random rows, and if its output equals the formula's, the fused kernel replaces it. Other modules stay.

Invariant: a fused model is compared with its own code afterwards, as every model is (agreement.py).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_log = logging.getLogger(__name__)

ROTARY = "apply_rotary_pos_emb"
"""Name of the function in transformers' attention modules."""
Rotated = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Kernels:
    """The three formulas, or their fused kernels."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    """x [..., n], weight [n], ε → weight · (x / √(mean x² + ε)); the quotient in float32, rounded to x's type"""
    swiglu: Callable[[Tensor, Tensor], Tensor]
    """gate, up → silu(gate) · up"""
    rotary: Callable[[Tensor, Tensor, Tensor, Tensor], Rotated]
    """query, key [1, heads, T, d], cos, sin [1, T, d] with equal halves → both rotated, left half with right half"""


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def _rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> Rotated:
    def turned(x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat([-right, left], dim=-1) * sin[:, None]

    return turned(query), turned(key)


WRITTEN_OUT = Kernels(_rms_norm, lambda gate, up: F.silu(gate) * up, _rotary)


def liger() -> Kernels:
    """Return liger-kernel's kernels for CUDA. ImportError if it is not installed."""
    from liger_kernel.ops import LigerRMSNormFunction, LigerRopeFunction, LigerSiLUMulFunction

    def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        # Not in place: a gradient that is overwritten may also belong to another tensor (norms before a residual sum).
        found: Tensor = LigerRMSNormFunction.apply(x, weight, epsilon, 0.0, "llama", False)
        return found

    def swiglu(gate: Tensor, up: Tensor) -> Tensor:
        found: Tensor = LigerSiLUMulFunction.apply(gate, up)
        return found

    def rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> Rotated:
        found: Rotated = LigerRopeFunction.apply(query, key, cos, sin)
        return found

    return Kernels(rms_norm, swiglu, rotary)


def usable(device: torch.device, *, hidden: int) -> Kernels | None:
    """Return liger-kernel's kernels if they are installed, compile and are correct; else None, with a log line."""
    try:
        kernels = liger()
        _try(kernels, device, hidden)
    except Exception as error:  # a compiler runs here and can raise anything
        _log.warning("fused kernels are not used, steps are slower: %s: %s", type(error).__name__, error)
        return None
    return kernels


def _try(kernels: Kernels, device: torch.device, hidden: int) -> None:
    """Compare forward and backward of each kernel with the formulas in float32. ArithmeticError if they differ."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.bfloat16)

    x, weight, gate, up = draw(8, hidden), draw(hidden), draw(8, hidden), draw(8, hidden)
    query, key = draw(1, 8, 4, 64), draw(1, 8, 2, 64)
    cos, sin = (draw(1, 8, 32).repeat(1, 1, 2) for _ in range(2))
    for name, given in (("rms_norm", (x, weight)), ("swiglu", (gate, up)), ("rotary", (query, key))):
        results = []
        for kernel, dtype in ((getattr(kernels, name), torch.bfloat16), (getattr(WRITTEN_OUT, name), torch.float32)):
            leaves = [t.detach().clone().to(dtype).requires_grad_() for t in given]
            if name == "rms_norm":
                out = (kernel(*leaves, 1e-6),)
            elif name == "swiglu":
                out = (kernel(*leaves),)
            else:
                out = kernel(*(t.transpose(1, 2) for t in leaves), cos.to(dtype), sin.to(dtype))
            total = torch.stack([part.float().square().sum() for part in out]).sum()
            results.append([*(part.detach().float() for part in out), *torch.autograd.grad(total, leaves)])
        for got, want in zip(*results, strict=True):
            if not float((got.float() - want).norm()) <= 0.03 * float(want.norm()):
                raise ArithmeticError(f"{name} computes wrong values on {device}")


@dataclass(frozen=True)
class Fused:
    """Numbers of modules that were changed."""

    norms: int = 0
    mlps: int = 0
    rotaries: int = 0

    def __str__(self) -> str:
        return f"{self.norms} norms, {self.mlps} gated MLPs, {self.rotaries} rotary embeddings"


@torch.no_grad()
def fuse(model: nn.Module, kernels: Kernels) -> Fused:
    """Replace modules by kernels that compute the same, in place. The model must be whole and on the CPU."""
    norms = mlps = rotaries = 0
    for module in model.modules():
        if (epsilon := _norm_epsilon(module)) is not None:
            _replace(module, _norm_by(kernels, epsilon))
            norms += 1
        elif _is_swiglu(module):
            _replace(module, _swiglu_by(kernels))
            mlps += 1
        elif (forward := _rotating(module)) is not None:
            _replace(module, _with_rotary(forward, kernels))
            rotaries += 1
    return Fused(norms, mlps, rotaries)


def _replace(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = MethodType(forward, module)


def _norm_by(kernels: Kernels, epsilon: float) -> Callable[..., Tensor]:
    # The weight is looked up at every call: in a sharded model it is the compute copy.
    return lambda self, x: kernels.rms_norm(x, self.weight, epsilon)


def _swiglu_by(kernels: Kernels) -> Callable[..., Tensor]:
    def forward(self: Any, x: Tensor) -> Tensor:
        found: Tensor = self.down_proj(kernels.swiglu(self.gate_proj(x), self.up_proj(x)))
        return found

    return forward


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _gives(module: nn.Module, x: Tensor, want: Tensor) -> bool:
    """Return whether the module's output for x is `want`, up to rounding."""
    try:
        got = module(x)
    except Exception:  # any error means: it is not called like this
        return False
    near = 1e-6 * max(1.0, float(want.abs().max()))
    return isinstance(got, Tensor) and got.shape == want.shape and torch.allclose(got, want, rtol=1e-4, atol=near)


def _norm_epsilon(module: nn.Module) -> float | None:
    """Return the ε of a norm that computes the formula; None for any other module."""
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    parameters = dict(module.named_parameters())
    if not isinstance(epsilon, float) or parameters.keys() != {"weight"} or parameters["weight"].ndim != 1:
        return None
    weight = parameters["weight"]
    # Also rows of about the size of √ε, so that ε has an effect
    rows = (_draw(2, len(weight)), _draw(2, len(weight)) * epsilon**0.5)
    return epsilon if all(_gives(module, x, WRITTEN_OUT.rms_norm(x, weight, epsilon)) for x in rows) else None


def _is_swiglu(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    gate, up, down = parts
    if not (isinstance(gate, nn.Linear) and isinstance(up, nn.Linear) and isinstance(down, nn.Linear)):
        return False
    # Also large values: some families clamp the gate or the product
    rows = (_draw(1, 2, gate.in_features) * scale for scale in (1.0, 1e4))
    return all(_gives(module, x, down(WRITTEN_OUT.swiglu(gate(x), up(x)))) for x in rows)


def _rotating(module: nn.Module) -> FunctionType | None:
    """Return the forward of an attention module that calls the rotary formula; None for any other module."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or inspect.unwrap(forward) is not forward:
        return None
    rotary = forward.__globals__.get(ROTARY) if ROTARY in forward.__code__.co_names else None
    if rotary is None:
        return None
    query, key = _draw(1, 4, 3, 8), _draw(1, 2, 3, 8)
    cos, sin = (half.repeat(1, 1, 2) for half in _draw(2, 1, 3, 4))
    try:
        found = rotary(query, key, cos, sin)
    except Exception:  # any error means: it is not called like this
        return None
    wanted = WRITTEN_OUT.rotary(query, key, cos, sin)
    return forward if all(torch.allclose(*pair, atol=1e-6) for pair in zip(found, wanted, strict=True)) else None


def _with_rotary(forward: FunctionType, kernels: Kernels) -> FunctionType:
    """Return a copy of the function with another `apply_rotary_pos_emb`. The function's module is not changed."""
    own = forward.__globals__[ROTARY]

    def rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, **others: Any) -> Rotated:
        alike = query.dtype == key.dtype == cos.dtype and query.shape[-1] == key.shape[-1] == cos.shape[-1]
        if others or not alike or cos.ndim != 3:
            rotated: Rotated = own(query, key, cos, sin, **others)
            return rotated
        return kernels.rotary(query, key, cos, sin)

    names = forward.__globals__ | {ROTARY: rotary}
    copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy
