"""What is given to fused kernels, and that nothing else changes. The kernels themselves need a GPU: there a policy is
compared with its own code at every start."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from support.model_families import random_model
from support.train_samples import random_batch
from toolorchestra.trainer import fused
from toolorchestra.trainer.agreement import check_agreement, own_values
from toolorchestra.trainer.fused import WRITTEN_OUT, Fused, Kernels, fuse, liger, usable
from toolorchestra.trainer.model import Policy, load_policy
from toolorchestra.trainer.packing import pack

CPU = torch.device("cpu")


def counting() -> tuple[Kernels, dict[str, int]]:
    """The formulas themselves, and how often they were called."""
    calls = dict.fromkeys(("rms_norm", "swiglu", "rotary"), 0)

    def counted(name: str) -> Any:
        def call(*args: Any) -> Any:
            calls[name] += 1
            return getattr(WRITTEN_OUT, name)(*args)

        return call

    return Kernels(*(counted(name) for name in calls)), calls


def policy_of(family: str, folder: Path, **settings: Any) -> Policy:
    random_model(family, **settings).save_pretrained(folder)
    return load_policy(folder, longest=512)


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    samples = random_batch(2, 5, longest=40)
    logprobs, _ = policy(pack(samples, [0.1] * 5))
    logprobs.sum().backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "found"),
    [
        ("qwen3", Fused(norms=17, mlps=4, rotaries=4)),
        ("llama", Fused(norms=9, mlps=4, rotaries=4)),
        ("qwen2", Fused(norms=9, mlps=4, rotaries=4)),
        ("olmo2", Fused(norms=17, mlps=4, rotaries=4)),
        ("gemma2", Fused(rotaries=4)),  # its norms scale by 1 + weight, its MLPs are gated by another function
        ("cohere", Fused(mlps=4)),  # it has layer norms, and turns neighbours
        ("phi3", Fused(norms=9, rotaries=4)),  # one matrix for gate and up
    ],
)
def test_what_computes_the_formula_is_replaced_and_computes_the_same(family: str, found: Fused, tmp_path: Path) -> None:
    policy = policy_of(family, tmp_path)
    want = gradients(load_policy(tmp_path, longest=512))
    own = own_values(policy)
    kernels, calls = counting()
    assert fuse(policy.model, kernels) == found
    check_agreement(policy, own, device=CPU)
    for name, grad in gradients(policy).items():
        torch.testing.assert_close(grad, want[name], atol=1e-4 * float(want[name].abs().max() + 1), rtol=1e-4)
    assert [count > 0 for count in calls.values()] == [found.norms > 0, found.mlps > 0, found.rotaries > 0]


@pytest.mark.parametrize("clamped", ["gate", "up", "product"])
def test_a_gated_mlp_with_a_clamp_stays(clamped: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = policy_of("qwen3", tmp_path)

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        def limited(value: torch.Tensor, what: str) -> torch.Tensor:
            return value.clamp(-7.0, 7.0) if what == clamped else value

        gate, up = limited(self.gate_proj(x), "gate"), limited(self.up_proj(x), "up")
        found: torch.Tensor = self.down_proj(limited(torch.nn.functional.silu(gate) * up, "product"))
        return found

    for module in policy.model.modules():
        if type(module).__name__ == "Qwen3MLP":
            monkeypatch.setattr(module, "forward", MethodType(forward, module))
    assert fuse(policy.model, counting()[0]).mlps == 0


def test_a_norm_that_computes_with_another_epsilon_than_it_says_stays() -> None:
    """On rows of common size it does not show."""

    class Norm(torch.nn.Module):
        def __init__(self, *, used: float) -> None:
            super().__init__()
            self.weight, self.eps, self.used = torch.nn.Parameter(torch.ones(64)), 1e-6, used

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return WRITTEN_OUT.rms_norm(x, self.weight, self.used)

    assert fuse(Norm(used=1e-6), counting()[0]).norms == 1
    assert fuse(Norm(used=3e-6), counting()[0]).norms == 0


def test_nothing_outside_of_the_model_changes(tmp_path: Path) -> None:
    policy = policy_of("qwen3", tmp_path)
    kernels, calls = counting()
    other = load_policy(tmp_path, longest=512)
    fuse(policy.model, kernels)
    for untouched in (other, load_policy(tmp_path, longest=512)):
        gradients(untouched)
    assert not any(calls.values())


@pytest.mark.parametrize("part", ["rms_norm", "swiglu", "rotary"])
def test_a_kernel_that_computes_something_else_is_noticed(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any) -> Any:
        found = getattr(WRITTEN_OUT, part)(*args)
        return tuple(1.1 * t for t in found) if isinstance(found, tuple) else 1.1 * found

    monkeypatch.setattr(fused, "liger", lambda: WRITTEN_OUT)
    assert usable(CPU, hidden=64) == WRITTEN_OUT
    monkeypatch.setattr(fused, "liger", lambda: replace(WRITTEN_OUT, **{part: wrong}))
    assert usable(CPU, hidden=64) is None


def test_without_the_package_the_log_says_that_steps_are_slower(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", None)
    assert usable(CPU, hidden=64) is None
    assert "fused kernels are not used" in caplog.text


def test_the_package_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signatures, as of 0.8.5, over the formulas."""

    def rms_norm(x: Any, w: Any, eps: float, offset: float, casting_mode: str, in_place: bool) -> Any:
        assert (offset, casting_mode, in_place) == (0.0, "llama", False)
        return WRITTEN_OUT.rms_norm(x, w, eps)

    ops: Any = ModuleType("liger_kernel.ops")
    ops.LigerRMSNormFunction = SimpleNamespace(apply=rms_norm)
    ops.LigerSiLUMulFunction = SimpleNamespace(apply=lambda a, b, *_: WRITTEN_OUT.swiglu(a, b))
    ops.LigerRopeFunction = SimpleNamespace(apply=lambda q, k, cos, sin, *_: WRITTEN_OUT.rotary(q, k, cos, sin))
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", ops)
    assert usable(CPU, hidden=64) is not None
    assert liger().rms_norm(torch.ones(1, 4), torch.ones(4), 0.0).tolist() == [[1.0] * 4]


def test_a_rotary_call_that_the_kernel_does_not_cover_goes_to_the_models_own(tmp_path: Path) -> None:
    """Angles in another type than the heads: the kernel would compute in the angles'."""
    policy = policy_of("llama", tmp_path)
    kernels, calls = counting()
    fuse(policy.model, kernels)
    attention = policy.model.model.layers[0].self_attn
    rotary = attention.forward.__func__.__globals__["apply_rotary_pos_emb"]
    q, k, angle = torch.randn(1, 4, 3, 16), torch.randn(1, 2, 3, 16), torch.randn(1, 3, 16)
    rotary(q, k, angle, angle)
    rotary(q.bfloat16(), k.bfloat16(), angle, angle)
    rotary(q.transpose(1, 2), k.transpose(1, 2), angle, angle, unsqueeze_dim=2)
    assert calls["rotary"] == 1
    assert copy.copy(type(attention).forward.__globals__["apply_rotary_pos_emb"]) is not rotary
