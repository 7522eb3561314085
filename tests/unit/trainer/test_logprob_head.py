from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorchestra.trainer.footprint import chunk_tokens, head_bytes
from toolorchestra.trainer.logprob import Logits, dense_token_logprobs, token_logprobs


@settings(deadline=None, max_examples=25)
@given(
    tokens=st.integers(0, 40),
    chunk=st.integers(1, 16),
    seed=st.integers(0, 1000),
    entropy_share=st.sampled_from([0.0, 0.7]),
    logits=st.sampled_from([Logits(), Logits(0.125), Logits(softcap=3.0), Logits(2.0, 5.0)]),
)
def test_chunked_equals_dense_in_value_and_gradient(
    tokens: int, chunk: int, seed: int, entropy_share: float, logits: Logits
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 12, generator=generator, dtype=torch.float32).requires_grad_()
    weight = torch.randn(50, 12, generator=generator).requires_grad_()
    targets = torch.randint(0, 50, (tokens,), generator=generator)
    upstream = torch.randn(tokens, generator=generator)
    results = []
    for head in (partial(token_logprobs, chunk=chunk, head=logits), partial(dense_token_logprobs, head=logits)):
        hidden.grad = weight.grad = None
        logprobs, entropy = head(hidden, weight, targets)
        ((upstream * logprobs).sum() + entropy_share * (upstream * entropy).sum()).backward()
        results.append((logprobs, entropy, hidden.grad, weight.grad))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


def test_the_whole_logits_never_exist() -> None:
    """The largest tensor that the head makes is one chunk."""
    hidden, weight = torch.randn(4000, 8, requires_grad=True), torch.randn(30_000, 8, requires_grad=True)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        logprobs, _ = token_logprobs(hidden, weight, torch.zeros(4000, dtype=torch.int64))
        logprobs.sum().backward()
    assert largest <= max(chunk_tokens(30_000, cuda=False) * 30_000, weight.numel())
    assert largest < 4000 * 30_000 / 20


def test_bfloat16_weights_still_give_float32_log_probabilities() -> None:
    hidden, weight = torch.randn(6, 16), torch.randn(40, 16)
    targets = torch.arange(6)
    logprobs, entropy = token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets)
    assert logprobs.dtype == entropy.dtype == torch.float32
    want, _ = dense_token_logprobs(hidden, weight, targets)
    assert logprobs.tolist() == pytest.approx(want.tolist(), abs=0.15)


def test_a_gpus_chunk_is_as_large_as_planned_and_the_plan_counts_it() -> None:
    assert chunk_tokens(151_936, cuda=True) == 1766
    assert chunk_tokens(151_936, cuda=False) == 27
    assert chunk_tokens(1 << 40, cuda=True) == 16
    gib = 1 << 30
    weight = 151_936 * 2048
    assert head_bytes(151_936, 2048, 16_384) == pytest.approx(1.5 * gib + 8 * weight, rel=1e-3)
    assert head_bytes(151_936, 2048, 16_384, float32=True) == pytest.approx(1.5 * gib + 12 * weight, rel=1e-3)
    assert head_bytes(151_936, 64, 1000) == 151_936 * 1000 * 8


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 40])
def test_an_entropy_that_no_loss_reads_costs_nothing_and_one_alone_is_enough(tokens: int) -> None:
    hidden, weight = torch.randn(tokens, 12, requires_grad=True), torch.randn(50, 12, requires_grad=True)
    targets = torch.randint(0, 50, (tokens,))
    gradients = []
    for head in (partial(token_logprobs, chunk=8), dense_token_logprobs):
        for which in (0, 1):
            outputs = head(hidden, weight, targets)
            gradients.append(torch.autograd.grad(outputs[which].square().sum(), (hidden, weight)))
    for got, want in zip(gradients[:2], gradients[2:], strict=True):
        torch.testing.assert_close(got, want, atol=5e-5, rtol=1e-5)


def test_only_what_is_asked_for_is_computed() -> None:
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(20, 8)
    logprobs, _ = token_logprobs(hidden, weight, torch.arange(5), chunk=2)
    logprobs.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("entropy_share", [0.0, 0.5])
def test_bfloat16_gradients_are_those_of_float32_but_for_rounding(chunk: int, entropy_share: float) -> None:
    """Nearly certain tokens too, whose gradient p - 1 is nothing in bfloat16 where p is rounded first."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(10, 16, generator=generator), torch.randn(40, 16, generator=generator)
    targets = (hidden @ weight.t()).argmax(-1)
    hidden = hidden * 1.5
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [t.bfloat16().to(dtype).requires_grad_() for t in (hidden, weight)]
        logprobs, entropy = token_logprobs(*leaves, targets, chunk=chunk)
        loss = logprobs.sum() + entropy_share * entropy.sum()
        gradients.append([grad.float() for grad in torch.autograd.grad(loss, leaves)])
    for got, want in zip(*gradients, strict=True):
        assert float((got - want).norm() / want.norm()) < 0.03
