from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorchestra.train.logprob import Logits, chunk_tokens, dense_token_logprobs, token_logprobs


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
    assert largest <= max(chunk_tokens(30_000) * 30_000, weight.numel())
    assert largest < 4000 * 30_000 / 20


def test_bfloat16_weights_still_give_float32_log_probabilities() -> None:
    hidden, weight = torch.randn(6, 16), torch.randn(40, 16)
    targets = torch.arange(6)
    logprobs, entropy = token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets)
    assert logprobs.dtype == entropy.dtype == torch.float32
    want, _ = dense_token_logprobs(hidden, weight, targets)
    assert logprobs.tolist() == pytest.approx(want.tolist(), abs=0.15)
