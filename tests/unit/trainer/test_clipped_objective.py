"""The formula by hand; agreement with TRL and verl is in tests/parity."""

from __future__ import annotations

import math

import pytest
import torch

from toolorchestra.trainer.objectives.clipped import Clipped, reference_kl
from toolorchestra.trainer.objectives.objective import LossInputs


def inputs(ratio: float, advantage: float, *, entropy: float = 2.0, reference: float | None = None) -> LossInputs:
    logprobs = torch.tensor([math.log(ratio) - 1.0], requires_grad=True)
    return LossInputs(
        logprobs=logprobs,
        entropy=torch.tensor([entropy]),
        sampler_logprobs=torch.tensor([-1.0]),
        advantages=torch.tensor([advantage]),
        weights=torch.tensor([1.0]),
        reference_logprobs=None if reference is None else torch.tensor([reference]),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.0, 2.0, -2.0, True),
        (1.5, 2.0, -2.56, False),  # clipped at 1.28
        (0.5, 2.0, -1.0, True),  # pessimistic: a good token that became unlikely still pulls
        (0.5, -2.0, 1.6, False),  # clipped at 0.8
        (1.5, -2.0, 3.0, True),
    ],
)
def test_the_clipped_surrogate(ratio: float, advantage: float, loss: float, moves: bool) -> None:
    given = inputs(ratio, advantage)
    out = Clipped()(given)
    out.loss.backward()
    assert float(out.loss) == pytest.approx(loss, rel=1e-5)
    assert given.logprobs.grad is not None
    assert bool(given.logprobs.grad.abs() > 0) is moves
    assert float(out.sums["clipped"]) == (0.0 if moves else 1.0)


def test_dual_clip_bounds_the_loss_of_a_bad_token_only() -> None:
    assert float(Clipped(dual_clip=3.0)(inputs(8.0, -1.0)).loss) == pytest.approx(3.0)
    assert float(Clipped()(inputs(8.0, -1.0)).loss) == pytest.approx(8.0)
    assert float(Clipped(dual_clip=3.0)(inputs(8.0, 1.0)).loss) == pytest.approx(-1.28)


def test_the_mask_band_removes_a_token_from_the_surrogate() -> None:
    out = Clipped(mask_band=(0.5, 2.0), entropy_coefficient=0.1)(inputs(4.0, -1.0))
    assert float(out.loss) == pytest.approx(-0.2)  # the entropy bonus stays
    assert float(out.sums["masked"]) == 1.0
    assert float(Clipped(mask_band=(0.5, 2.0))(inputs(1.9, -1.0)).loss) == pytest.approx(1.9)


def test_kl_estimators() -> None:
    logprobs, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    delta = 0.5
    assert float(reference_kl(logprobs, reference, "k1")) == pytest.approx(delta)
    assert float(reference_kl(logprobs, reference, "k2")) == pytest.approx(delta**2 / 2)
    assert float(reference_kl(logprobs, reference, "half_delta_squared")) == pytest.approx(delta**2 / 2)
    assert float(reference_kl(logprobs, reference, "k3")) == pytest.approx(math.exp(-delta) - 1 + delta)
    out = Clipped(kl_coefficient=0.2, kl_estimator="k2")(inputs(1.0, 0.0, reference=-1.5))
    assert float(out.loss) == pytest.approx(0.2 * 0.125)
    with pytest.raises(ValueError, match="reference"):
        Clipped(kl_coefficient=0.2)(inputs(1.0, 1.0))


def test_k1_and_k3_estimate_the_same_divergence() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(30).log_softmax(0), torch.randn(30).log_softmax(0)
    exact = float((policy.exp() * (policy - reference)).sum())
    assert float((policy.exp() * reference_kl(policy, reference, "k1")).sum()) == pytest.approx(exact, rel=1e-4)
    assert float((policy.exp() * reference_kl(policy, reference, "k3")).sum()) == pytest.approx(exact, rel=1e-4)


def test_an_absurd_ratio_stays_finite() -> None:
    given = LossInputs(
        logprobs=torch.tensor([-1.0, -500.0], requires_grad=True),
        entropy=torch.zeros(2),
        sampler_logprobs=torch.tensor([-900.0, -1.0]),
        advantages=torch.tensor([-1.0, 1.0]),
        weights=torch.tensor([0.5, 0.5]),
    )
    out = Clipped()(given)
    assert torch.isfinite(out.loss)
    assert float(out.maxima["ratio"]) == pytest.approx(math.exp(20), rel=1e-4)


def test_an_empty_micro_batch_adds_nothing() -> None:
    nothing = torch.zeros(0, requires_grad=True)
    out = Clipped()(LossInputs(nothing, nothing, nothing.detach(), nothing.detach(), nothing.detach()))
    out.loss.backward()
    assert float(out.loss) == 0.0
    assert all(float(value) == 0.0 for value in (*out.sums.values(), *out.maxima.values()))
