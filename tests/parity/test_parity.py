"""Our objective against the committed outputs of the pinned peers (`make parity` makes them anew)."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from toolorchestra.trainer.batch import StepConfig, TrainSample
from toolorchestra.trainer.objectives.clipped import Clipped
from toolorchestra.trainer.objectives.objective import LossInputs
from toolorchestra.trainer.packing import token_weights

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("parity_cases", HERE / "cases.py")
assert _spec is not None
assert _spec.loader is not None
cases = importlib.util.module_from_spec(_spec)
sys.modules["parity_cases"] = cases
_spec.loader.exec_module(cases)

OUTPUTS: dict[str, Any] = json.loads((HERE / "outputs.json").read_text())
INPUTS: dict[str, Any] = cases.read_inputs()
BY_NAME = {case.name: case for case in cases.CASES}
PAIRS = [(peer, name) for peer in ("trl", "verl") for name in OUTPUTS[peer]]


def weights(aggregation: Any) -> list[float]:
    """Per sequence, by the code that the trainer uses; a leading token stands for the prompt."""
    samples = [
        TrainSample([0] * (1 + len(row)), [False, *map(bool, row)], [0.0] * (1 + len(row))) for row in INPUTS["mask"]
    ]
    return token_weights(samples, aggregation)


def ours(case: Any) -> tuple[float, dict[str, torch.Tensor], float]:
    mask = torch.tensor(INPUTS["mask"], dtype=torch.bool)
    flat = {name: torch.tensor(INPUTS[name])[mask] for name in ("logprobs", "sampler", "reference", "entropy")}
    flat["logprobs"].requires_grad_()
    flat["entropy"].requires_grad_()
    config = StepConfig(
        clip_low=case.clip_low,
        clip_high=case.clip_high,
        dual_clip=case.dual_clip,
        entropy_coefficient=case.entropy_coefficient,
        kl_coefficient=case.kl_coefficient,
        kl_estimator=case.kl_estimator,
        aggregation=case.aggregation,
    )
    shares = torch.tensor(weights(case.aggregation))[:, None].expand(mask.shape)[mask]
    out = Clipped.of(config)(
        LossInputs(
            logprobs=flat["logprobs"],
            entropy=flat["entropy"],
            sampler_logprobs=flat["sampler"],
            advantages=torch.tensor(INPUTS["advantages"])[:, None].expand(mask.shape)[mask],
            weights=shares,
            reference_logprobs=flat["reference"],
        )
    )
    out.loss.backward()
    gradients = {}
    for name in ("logprobs", "entropy"):
        grad = flat[name].grad
        gradients[name] = torch.zeros(mask.shape)
        if grad is not None:
            gradients[name][mask] = grad
    return out.loss.item(), gradients, float(out.sums["clipped"])


@pytest.mark.parametrize(("peer", "name"), PAIRS)
def test_loss_and_gradients_agree(peer: str, name: str) -> None:
    want = OUTPUTS[peer][name]
    loss, gradients, clipped = ours(BY_NAME[name])
    assert loss == pytest.approx(want["loss"], abs=1e-5)
    for kind, grad in gradients.items():
        torch.testing.assert_close(grad, torch.tensor(want["gradients"][kind]), atol=1e-5, rtol=0)
    if "clip_fraction" in want and want["clip_fraction"] is not None and BY_NAME[name].aggregation == "token_mean":
        assert clipped == pytest.approx(want["clip_fraction"], abs=1e-5)


def test_every_case_has_a_peer_and_bites() -> None:
    assert {name for _, name in PAIRS} == BY_NAME.keys()
    assert OUTPUTS["versions"]["trl"] == "1.16.0"
    losses = [OUTPUTS["verl"][name]["loss"] for name in BY_NAME]
    assert len({round(loss, 5) for loss in losses}) >= len(losses) - 1
