"""Packed equals dense: the same model, one sequence at a time through transformers' own attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen
from transformers import AutoModelForCausalLM, Qwen3Config

from support.train_samples import random_batch, sibling_batch
from toolorchestra.trainer import attention
from toolorchestra.trainer.attention import (
    AttentionRefused,
    Weighing,
    flash_takes,
    grouped_attention,
    packed_attention,
    varlen_attention,
)
from toolorchestra.trainer.batch import TrainSample
from toolorchestra.trainer.documents import MAX_PADDING, Documents, group_documents
from toolorchestra.trainer.family import Family, alone, families
from toolorchestra.trainer.model import ModelError, Policy, load_policy
from toolorchestra.trainer.packing import pack, token_weights


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=50))
def test_groups_cover_the_documents_in_order_with_little_padding(lengths: list[int]) -> None:
    groups = group_documents(lengths)
    assert [n for group in groups for n in group.lengths] == lengths
    start = 0
    for group in groups:
        assert group.start == start
        start += group.tokens
        assert group.count * group.longest - group.tokens <= MAX_PADDING * group.tokens


@settings(deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    window=st.one_of(st.none(), st.integers(1, 50)),
    softcap=st.sampled_from([None, 2.0]),
    sinks=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_document_sees_only_its_own_past(
    lengths: list[int], window: int | None, softcap: float | None, sinks: bool, seed: int
) -> None:
    """Every document alone, written out, gives the same as all packed, to float32 rounding; grouped query heads,
    windows, capped scores and sinks included."""
    generator = torch.Generator().manual_seed(seed)
    how = Weighing(None, window, softcap, torch.randn(4, generator=generator) if sinks else None)
    tokens = sum(lengths)
    query = torch.randn(tokens, 4, 8, generator=generator)
    key, value = (torch.randn(tokens, 2, 8, generator=generator) for _ in range(2))
    packed = grouped_attention(query, key, value, Documents(tuple(lengths), torch.device("cpu")), how)
    start = 0
    for length in lengths:
        q, k, v = (t[start : start + length] for t in (query, key, value))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / 8**0.5
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        ages = torch.arange(length)[:, None] - torch.arange(length)
        scores = scores.masked_fill((ages < 0) | (ages >= (window or length)), float("-inf"))
        if how.sinks is not None:
            scores = torch.cat([scores, how.sinks[:, None, None].expand(4, length, 1)], dim=-1)
        want = torch.einsum("hqk,khd->qhd", scores.softmax(-1)[..., :length], v)
        torch.testing.assert_close(packed[start : start + length], want, atol=1e-5, rtol=1e-5)
        start += length


@settings(deadline=None, max_examples=20)
@given(
    families=st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=2, max_size=5)), max_size=4),
    single=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    window=st.one_of(st.none(), st.integers(1, 40)),
    capped=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_branch_sees_its_trunk_and_its_own_past(
    families: list[tuple[int, list[int]]], single: list[int], window: int | None, capped: bool, seed: int
) -> None:
    """Trunks laid down once give what whole sequences side by side give."""
    generator = torch.Generator().manual_seed(seed)
    roots = [*single, *(trunk for trunk, _ in families)]
    parents = [None] * len(roots) + [len(single) + f for f, (_, rest) in enumerate(families) for _ in rest]
    lengths = [*roots, *(n for _, rest in families for n in rest)]
    documents = Documents(tuple(lengths), torch.device("cpu"), tuple(parents))
    query = torch.randn(sum(lengths), 4, 8, generator=generator)
    key, value = (torch.randn(sum(lengths), 2, 8, generator=generator) for _ in range(2))
    how = Weighing(None, window, 3.0, torch.randn(4, generator=generator)) if capped else Weighing(None, window)
    got = torch.split(grouped_attention(query, key, value, documents, how), lengths)
    parts = [torch.split(t, lengths) for t in (query, key, value)]
    for segment, parent in enumerate(parents):
        chain = [segment] if parent is None else [parent, segment]
        whole = [torch.cat([part[i] for i in chain]) for part in parts]
        want = grouped_attention(*whole, Documents((len(whole[0]),), torch.device("cpu")), how)  # type: ignore[arg-type]
        torch.testing.assert_close(got[segment], want[-lengths[segment] :], atol=1e-5, rtol=1e-5)


def test_a_keyword_that_is_not_known_is_named() -> None:
    module = torch.nn.Module()
    module.config = Qwen3Config()
    q = torch.randn(1, 2, 4, 8)
    documents = Documents((4,), torch.device("cpu"))
    packed_attention(module, q, q, q, None, documents=documents, is_causal=True, block_indices=None)
    with pytest.raises(
        AttentionRefused, match=r"model type qwen3\) passes block_indices, position_bias to its attention"
    ):
        packed_attention(module, q, q, q, None, documents=documents, position_bias=q, block_indices=q)
    with pytest.raises(AttentionRefused, match="the ends of the documents"):
        packed_attention(module, q, q, q, None)
    with pytest.raises(AttentionRefused, match="a window of 3 tokens, but its mask has one of None"):
        packed_attention(module, q, q, q, None, documents=documents, sliding_window=3)


def flash(dtype: torch.dtype, width: int, *, value_width: int | None = None) -> bool:
    query, key = (torch.zeros(4, heads, width, dtype=dtype) for heads in (4, 2))
    return flash_takes(query, key, torch.zeros(4, 2, value_width or width, dtype=dtype))


def test_flash_attention_is_given_what_it_has_kernels_for() -> None:
    assert all(flash(torch.bfloat16, width) for width in (64, 80, 128, 256))
    assert not flash(torch.float32, 64)
    assert not flash(torch.bfloat16, 264)
    assert not flash(torch.bfloat16, 36)
    assert not flash(torch.bfloat16, 192, value_width=128)


def per_document(query: Any, key: Any, value: Any, offsets: Any, _: Any, longest: int, *__: Any, **said: Any) -> Any:
    """What torch's variable-length attention computes, through grouped_attention."""
    lengths = offsets.diff().tolist()
    assert longest == max(lengths)
    assert said.pop("enable_gqa", None) in (None, True)
    left, right = said.pop("window_size")
    assert right == 0
    how = Weighing(said.pop("scale"), None if left < 0 else left + 1)
    assert not said
    return grouped_attention(query, key, value, Documents(tuple(lengths), torch.device("cpu")), how)


@pytest.mark.parametrize("has_word", [True, False])
@pytest.mark.parametrize("window", [None, 5])
def test_the_flash_call_says_the_same_to_every_torch(
    has_word: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.11 knows no word for grouped heads, 2.13 wants it: the call's arguments mean the same document by document."""
    heard: dict[str, Any] = {}

    def with_word(*args: Any, enable_gqa: bool = False, **said: Any) -> Any:
        heard["enable_gqa"] = enable_gqa
        return per_document(*args, **said)

    def without_word(*args: Any, scale: float | None = None, window_size: tuple[int, int] = (-1, -1)) -> Any:
        return per_document(*args, scale=scale, window_size=window_size)

    monkeypatch.setattr(varlen, "varlen_attn", with_word if has_word else without_word)
    attention._grouping.cache_clear()
    query, key = torch.randn(12, 4, 8), torch.randn(12, 2, 8)
    documents, how = Documents((3, 9), torch.device("cpu")), Weighing(0.5, window)
    got = varlen_attention(query, key, key, documents, how)
    attention._grouping.cache_clear()
    assert heard == ({"enable_gqa": True} if has_word else {})
    torch.testing.assert_close(got, grouped_attention(query, key, key, documents, how))


def test_no_forward_asks_the_device_where_documents_end(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer that the host reads makes it wait for all that is queued."""
    policy = load_policy(tiny).train()
    batch = pack(random_batch(1, 5, shortest=20, longest=20), [0.1] * 5)
    with monkeypatch.context() as patch:
        for name in ("__bool__", "item", "tolist", "__int__", "__float__", "nonzero"):
            patch.setattr(torch.Tensor, name, lambda self, *args, name=name: pytest.fail(f"reads a tensor: {name}"))
        logprobs, _ = policy(batch)
        logprobs.sum().backward()


def dense_logprobs(folder: Path, samples: list[TrainSample]) -> torch.Tensor:
    """[N] by transformers itself, one unpadded sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    parts = []
    with torch.no_grad():
        for sample in samples:
            ids = torch.tensor(sample.token_ids)
            log_p = model(ids[None]).logits[0].log_softmax(-1)[:-1].gather(1, ids[1:, None]).squeeze(1)
            parts.append(log_p[torch.tensor(sample.loss_mask)[1:]])
    return torch.cat(parts)


@pytest.mark.parametrize("tied", [False, True])
def test_packed_logprobs_equal_dense_ones(tied: bool, tiny: Path, tiny_tied: Path) -> None:
    folder = tiny_tied if tied else tiny
    samples = sorted(random_batch(1, 24), key=lambda s: len(s.token_ids))
    logprobs, entropy = load_policy(folder)(pack(samples, token_weights(samples, "token_mean")))
    torch.testing.assert_close(logprobs, dense_logprobs(folder, samples), atol=1e-5, rtol=0)
    assert (entropy > 0).all()


def gradients(policy: Policy, samples: list[TrainSample], units: list[Family] | None = None) -> dict[str, torch.Tensor]:
    policy.zero_grad(set_to_none=True)
    logprobs, entropy = policy(pack(samples, token_weights(samples, "token_mean"), units))
    (logprobs.mean() + 0.3 * entropy.mean()).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_gradients_equal_those_of_one_sequence_at_a_time(tiny_tied: Path, checkpointing: bool) -> None:
    samples = sorted(random_batch(2, 9, longest=60), key=lambda s: len(s.token_ids))
    policy = load_policy(tiny_tied, gradient_checkpointing=checkpointing).train()
    got = gradients(policy, samples)
    trained = [sample.trained_tokens for sample in samples]
    want: dict[str, torch.Tensor] = {}
    for sample, count in zip(samples, trained, strict=True):
        for name, grad in gradients(policy, [sample]).items():
            want[name] = want.get(name, torch.zeros_like(grad)) + grad * count / sum(trained)
    assert got.keys() == want.keys() == dict(policy.named_parameters()).keys()
    for name, grad in got.items():
        torch.testing.assert_close(grad, want[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_shared_trunk_changes_neither_logprobs_nor_gradients(tiny: Path, checkpointing: bool) -> None:
    samples = sibling_batch(3, groups=3, siblings=5)
    units = families(samples, limit=10_000)
    assert sum(len(unit.members) > 1 for unit in units) == 3
    shared, separate = (pack(samples, [0.0] * len(samples), u) for u in (units, alone(samples)))
    assert shared.tokens < 0.6 * separate.tokens
    policy = load_policy(tiny, gradient_checkpointing=checkpointing).train()
    with torch.no_grad():
        order = [i for unit in units for i in unit.members]
        want = iter(policy(pack([samples[i] for i in order], [0.0] * len(samples)))[0])
        for value in policy(shared)[0]:
            torch.testing.assert_close(value, next(want), atol=1e-5, rtol=0)
    got, expected = gradients(policy, samples, units), gradients(policy, samples)
    for name, grad in got.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-5, rtol=1e-4)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_policy(tmp_path)


def test_a_float32_head_multiplies_in_float32_what_a_narrow_model_gives_it(tiny: Path) -> None:
    samples = random_batch(1, 6)
    batch = pack(samples, token_weights(samples, "token_mean"))
    narrow, wide = (load_policy(tiny, head_float32=wanted).bfloat16() for wanted in (False, True))
    hidden = narrow.hidden(batch)[batch.selected].float()
    want = (hidden @ narrow.head_weight.float().t()).log_softmax(-1).gather(1, batch.targets[:, None]).squeeze(1)
    torch.testing.assert_close(wide(batch)[0], want, atol=1e-5, rtol=0)
    rounded = narrow(batch)[0]
    assert 1e-4 < float((rounded - want).abs().max()) < 0.1
    wide(batch)[0].sum().backward()
    assert wide.head_weight.grad is not None
    assert wide.head_weight.grad.dtype == torch.bfloat16
