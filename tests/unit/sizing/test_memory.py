"""The memory plan: held to what was measured, to what autograd keeps of the real module, and to its own promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from support.memory_layouts import LAYOUT
from toolorchestra.sizing.memory import GIB, memory_plan
from toolorchestra.sizing.model_shape import QWEN3, ModelShape
from toolorchestra.sizing.trainer_memory import layer_bytes
from toolorchestra.trainer.attention import PACKED_ATTENTION
from toolorchestra.trainer.batch import TrainSample
from toolorchestra.trainer.family import alone
from toolorchestra.trainer.footprint import head_bytes
from toolorchestra.trainer.model import Policy
from toolorchestra.trainer.packing import pack

# ── what was measured, and what can be counted ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("elements", "measured"), [(1 << 22, 78.7e9), (1 << 28, 89.8e9)])
def test_the_peak_that_was_measured_on_one_h200(elements: int, measured: float) -> None:
    """Qwen3-1.7B's shape, unfused, micro-batches of at most 16,384 tokens, no checkpointing (torch 2.11).

    The head was another one then: of the chunk before, two float32 arrays and a bfloat16 one were still there while the
    next one's logits came, with scratch of their size: 18 bytes a logit; and 6 per element of its weight.
    """
    shape = QWEN3["1.7B"]
    layout = replace(LAYOUT, gpu_bytes=139 * GIB, checkpointing=False, fused=False, keep=False)
    weight = shape.vocabulary * shape.hidden
    then = 18 * elements + 6 * weight - head_bytes(shape.vocabulary, shape.hidden, LAYOUT.tokens_per_micro_batch)
    assert memory_plan(shape, layout).trainer_peak + then == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(("checkpointing", "measured"), [(False, 83.1e9), (True, 36.5e9)])
def test_the_peaks_that_gpu_check_measured(checkpointing: bool, measured: float) -> None:
    """The same shape and card, today's head, compute copies kept (docs/gpu-results)."""
    layout = replace(LAYOUT, gpu_bytes=139 * GIB, checkpointing=checkpointing, fused=False, keep=True)
    plan = memory_plan(QWEN3["1.7B"], replace(layout, tokens_per_micro_batch=15_903))
    assert plan.trainer_peak == pytest.approx(measured, rel=0.1)


SMALL: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "vocab_size": 100,
}


def kept(config: Any, *, layers: int, tokens: int, checkpointing: bool = False) -> int:
    """Bytes that autograd keeps of one forward in bfloat16, parameters aside; a tensor and its views count once."""
    model = AutoModelForCausalLM.from_config(
        config(num_hidden_layers=layers, **SMALL), dtype=torch.bfloat16, attn_implementation=PACKED_ATTENTION
    )
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = Policy(model).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    sample = TrainSample([5] * tokens, [False] + [True] * (tokens - 1), [0.0] * tokens)
    batch = pack([sample], [1.0], alone([sample]))
    held: list[Tensor] = []  # so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy(batch)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return sum(size for address, size in storages.items() if address not in own)


def per_layer(config: Any, *, checkpointing: bool = False) -> float:
    one, three = (kept(config, layers=n, tokens=64, checkpointing=checkpointing) for n in (1, 3))
    return (three - one) / 2 / 64


def small_shape(config: Any) -> ModelShape:
    return ModelShape(
        parameters=1_000_000,
        layers=1,
        hidden=SMALL["hidden_size"],
        intermediate=SMALL["intermediate_size"],
        vocabulary=SMALL["vocab_size"],
        heads=SMALL["num_attention_heads"],
        kv_heads=SMALL["num_key_value_heads"],
        head_dim=SMALL["head_dim"],
        tied=True,
        query_key_norm=config is Qwen3Config,
    )


@pytest.mark.parametrize("config", [Qwen3Config, LlamaConfig])
def test_a_layer_keeps_what_the_formula_says(config: Any) -> None:
    """The CPU's attention keeps what flash attention does on CUDA: queries, keys, values, output, log-sum-exp."""
    assert per_layer(config) == layer_bytes(small_shape(config), fused=False)
    assert per_layer(config, checkpointing=True) == 2 * SMALL["hidden_size"]


class _Norm(torch.autograd.Function):
    """Keeps what a fused norm keeps: its input and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse)
        return (weight * x * inverse).to(x.dtype)


class _SwiGLU(torch.autograd.Function):
    """Keeps gate and up; the product of both is the next layer's input."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate) * up


@contextmanager
def fused_qwen3() -> Iterator[None]:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

    def norm(self: Any, x: Tensor) -> Tensor:
        result: Tensor = _Norm.apply(x, self.weight, self.variance_epsilon)
        return result

    def mlp(self: Any, x: Tensor) -> Any:
        return self.down_proj(_SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3RMSNorm, "forward", norm)
        patch.setattr(Qwen3MLP, "forward", mlp)
        yield


def test_a_layer_with_fused_kernels_keeps_what_the_formula_says() -> None:
    with fused_qwen3():
        assert per_layer(Qwen3Config) == layer_bytes(small_shape(Qwen3Config), fused=True)
