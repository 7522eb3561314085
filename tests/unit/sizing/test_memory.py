"""The memory plan: held to what was measured, to what autograd keeps of the real module, and to its own promises."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from toolorchestra.policy.model_file import ModelFileError
from toolorchestra.sizing.engine_memory import kv_bytes
from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.memory import GIB, WANTED_SEQUENCES, MemoryPlan, memory_plan
from toolorchestra.sizing.model_shape import QWEN3, ModelShape, shape_of
from toolorchestra.sizing.table import BASE, table
from toolorchestra.sizing.trainer_memory import layer_bytes
from toolorchestra.trainer.attention import PACKED_ATTENTION
from toolorchestra.trainer.batch import TrainSample
from toolorchestra.trainer.family import alone
from toolorchestra.trainer.footprint import head_bytes
from toolorchestra.trainer.model import Policy
from toolorchestra.trainer.packing import pack

LAYOUT = Layout(gpu_bytes=79 * GIB, tokens_per_micro_batch=16384, max_model_len=4096, max_num_seqs=256)


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


# ── what a plan promises ────────────────────────────────────────────────────────────────────────────────────────────

shapes = st.sampled_from(sorted(QWEN3)).map(QWEN3.__getitem__)
layouts = st.builds(
    Layout,
    gpu_bytes=st.integers(8, 200).map(lambda n: n * GIB),
    trainers=st.integers(1, 16),
    engines=st.integers(1, 4),
    tensor_parallel=st.sampled_from([1, 2, 4]),
    tokens_per_micro_batch=st.integers(16, 131_072),
    max_model_len=st.integers(64, 40_960),
    max_num_seqs=st.integers(1, 512),
    reference=st.booleans(),
    checkpointing=st.sampled_from([None, True, False]),
    fused=st.booleans(),
) | st.builds(
    Layout,
    gpu_bytes=st.integers(8, 200).map(lambda n: n * GIB),
    shared=st.just(True),
    tokens_per_micro_batch=st.integers(16, 131_072),
    max_model_len=st.integers(64, 40_960),
    max_num_seqs=st.integers(1, 512),
    checkpointing=st.sampled_from([None, True, False]),
)


@given(shapes, layouts)
def test_what_has_no_problem_fits(shape: ModelShape, layout: Layout) -> None:
    plan = memory_plan(shape, layout)
    assert (plan.problem is None) == all(gpu.total <= gpu.capacity for gpu in plan.gpus)
    assert 0 < plan.gpu_memory_utilization <= 1
    assert all(size >= 0 for gpu in plan.gpus for _, size in gpu.parts)


@given(shapes, layouts)
def test_what_would_fit_does(shape: ModelShape, layout: Layout) -> None:
    plan = memory_plan(shape, layout)
    for remedy in plan.remedies:
        assert plan.problem is not None
        assert remedy.words in plan.problem
        assert memory_plan(shape, remedy.layout).problem is None


@given(shapes, layouts, st.integers(1, 65_536), st.booleans(), st.booleans())
def test_more_tokens_never_take_less(
    shape: ModelShape, layout: Layout, more: int, checkpointing: bool, keep: bool
) -> None:
    layout = replace(layout, checkpointing=checkpointing, keep=keep)
    larger = replace(layout, tokens_per_micro_batch=layout.tokens_per_micro_batch + more)
    assert memory_plan(shape, larger).trainer_peak >= memory_plan(shape, layout).trainer_peak


@given(shapes, layouts, st.integers(1, 64), st.booleans(), st.booleans())
def test_more_trainers_never_take_more_of_each(
    shape: ModelShape, layout: Layout, more: int, checkpointing: bool, keep: bool
) -> None:
    layout = replace(layout, checkpointing=checkpointing, keep=keep)
    wider = replace(layout, trainers=layout.trainers + more)
    assert memory_plan(shape, wider).trainer_peak <= memory_plan(shape, layout).trainer_peak


@given(shapes, layouts)
def test_checkpointing_is_off_wherever_it_fits_so_and_the_engine_has_room(shape: ModelShape, layout: Layout) -> None:
    free, off, on = (memory_plan(shape, replace(layout, checkpointing=c)) for c in (None, False, True))
    wanted = min(WANTED_SEQUENCES, layout.max_num_seqs)
    if off.problem is not None:
        assert free.checkpointing
    elif off.kv_sequences >= wanted:
        assert not free.checkpointing
    else:  # neither has room: the one that leaves more
        assert free.kv_sequences == max(off.kv_sequences, on.kv_sequences)


@given(shapes, layouts)
def test_an_engine_starts_whoever_holds_memory_first(shape: ModelShape, layout: Layout) -> None:
    """vLLM wants its share of the whole GPU free at its start, its own CUDA context taken already."""
    plan = memory_plan(shape, layout)
    if plan.problem is None:
        trainer = plan.trainer_peak if layout.shared else 0
        assert plan.gpu_memory_utilization * layout.gpu_bytes + trainer <= layout.gpu_bytes


# ── single cases ────────────────────────────────────────────────────────────────────────────────────────────────────


def part(plan: MemoryPlan, name: str) -> int:
    return next(size for gpu in plan.gpus for each, size in gpu.parts if each.startswith(name))


def test_a_tiny_model_does_not_reserve_a_whole_gpu() -> None:
    tiny = ModelShape(
        parameters=1_038_848,
        layers=4,
        hidden=128,
        intermediate=352,
        vocabulary=1168,
        heads=4,
        kv_heads=2,
        head_dim=32,
        tied=False,
    )
    plan = memory_plan(tiny, replace(LAYOUT, shared=True, max_model_len=1024))
    assert plan.problem is None
    assert plan.kv_sequences == LAYOUT.max_num_seqs
    assert plan.gpu_memory_utilization < 0.05


def test_compute_copies_stay_only_where_everything_else_fits_with_them() -> None:
    roomy = replace(LAYOUT, gpu_bytes=139 * GIB)
    assert memory_plan(QWEN3["1.7B"], roomy).keep
    assert not memory_plan(QWEN3["1.7B"], replace(roomy, trainers=2)).keep
    four = memory_plan(QWEN3["4B"], roomy)
    assert (four.keep, four.checkpointing) == (False, False)  # with them a block would have to be computed twice


def test_an_engine_on_its_own_gpu_takes_its_usual_share() -> None:
    plan = memory_plan(QWEN3["1.7B"], LAYOUT)
    assert plan.gpu_memory_utilization == 0.9
    assert [gpu.what for gpu in plan.gpus] == ["trainer", "engine"]
    assert plan.kv_cache_bytes == part(plan, "engine: keys") == pytest.approx(0.9 * 79 * GIB, rel=0.1)


def test_an_engine_that_needs_more_than_its_usual_share_gets_it() -> None:
    tight = replace(LAYOUT, gpu_bytes=int(37.6 * GIB), trainers=64, max_model_len=16384)
    plan = memory_plan(QWEN3["8B"], tight)
    assert plan.problem is None
    assert 0.9 < plan.gpu_memory_utilization < 1


def test_a_sequence_longer_than_a_micro_batch_is_planned_for() -> None:
    short = replace(LAYOUT, tokens_per_micro_batch=1024, max_model_len=16384)
    assert memory_plan(QWEN3["1.7B"], short).trainer_peak == memory_plan(QWEN3["1.7B"], replace(
        short, tokens_per_micro_batch=16384
    )).trainer_peak  # fmt: skip


def test_keys_and_values_of_a_published_model() -> None:
    assert kv_bytes(QWEN3["8B"]) == 147_456  # 36 layers x 8 heads x 128 x 2 x 2 bytes
    assert kv_bytes(QWEN3["8B"], tensor_parallel=2) * 2 == kv_bytes(QWEN3["8B"])
    few = replace(QWEN3["8B"], kv_heads=2)
    assert kv_bytes(few, tensor_parallel=4) * 2 == kv_bytes(few), "each GPU has a whole head, be it a copy"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("0.6B", 596_049_920), ("1.7B", 1_720_574_976), ("4B", 4_022_468_096), ("8B", 8_190_735_360)],
)
def test_published_shapes_have_their_published_parameters(name: str, parameters: int) -> None:
    assert QWEN3[name].parameters == parameters


def test_the_refusal_says_what_would_fit() -> None:
    eight = memory_plan(QWEN3["8B"], replace(LAYOUT, shared=True))
    assert eight.problem is not None
    assert "a GPU has 79.0 GiB" in eight.problem
    assert "4 GPUs: spec.ray.trainers.replicas 3, engines.replicas 1, placement Separate" in eight.problem
    here = memory_plan(QWEN3["8B"], replace(LAYOUT, shared=True), there=2)
    assert here.problem is not None
    assert "4 GPUs (here: 2): " in here.problem
    stubborn = memory_plan(QWEN3["4B"], replace(LAYOUT, trainers=2, checkpointing=False))
    assert stubborn.problem is not None
    assert "activation checkpointing" in stubborn.problem
    long = memory_plan(QWEN3["4B"], replace(LAYOUT, tokens_per_micro_batch=200_000, trainers=2))
    assert long.problem is not None
    assert "spec.algorithm.tokensPerMicroBatch of at most" in long.problem
    huge = memory_plan(QWEN3["32B"], replace(LAYOUT, gpu_bytes=GIB))
    assert huge.problem is not None
    assert huge.problem.endswith(". Nothing that is known here makes it fit: take larger GPUs")


def test_the_lines_tell_every_part() -> None:
    plan = memory_plan(QWEN3["1.7B"], replace(LAYOUT, shared=True, reference=True, gpu_bytes=139 * GIB))
    text = "\n".join(plan.lines())
    for word in ("weights", "gradients", "optimizer", "reference", "activations of 16,384", "head", "keys", "slack"):
        assert word in text
    assert "trainer and engine (1 GPU): " in text
    assert "engine's share of a GPU" in text
    assert "largest micro-batch: 16,384 tokens, by algorithm.tokensPerMicroBatch" in text
    long = memory_plan(QWEN3["1.7B"], replace(LAYOUT, tokens_per_micro_batch=1024))
    assert "4,096 tokens, by rollout.maxPromptTokens + maxResponseTokens" in "\n".join(long.lines())
    refused = memory_plan(QWEN3["8B"], replace(LAYOUT, shared=True))
    assert refused.lines()[-1] == refused.problem


# ── from a folder ───────────────────────────────────────────────────────────────────────────────────────────────────

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(config: dict[str, Any], **tensors: list[int]) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        header = json.dumps({
            name.replace("__", "."): {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}
            for name, shape in tensors.items()
        }).encode()  # fmt: skip
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        return tmp_path

    return make


LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "vocab_size": 10,
}


def test_a_real_folder_tells_its_shape(tiny: Path, tiny_tied: Path) -> None:
    for one in (tiny, tiny_tied):
        model = AutoModelForCausalLM.from_pretrained(one)
        shape = shape_of(one)
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert (shape.layers, shape.hidden) == (model.config.num_hidden_layers, model.config.hidden_size)
        assert shape.tied == (one == tiny_tied)
        assert shape.query_key_norm
        assert shape.layers * shape.block + shape.root == pytest.approx(shape.parameters, rel=0.01)


def test_what_a_config_leaves_out_is_its_default(folder: Folder) -> None:
    shape = shape_of(folder(LLAMA, embed__weight=[10, 64], lm_head__weight=[10, 64]))
    assert (shape.kv_heads, shape.head_dim, shape.tied, shape.query_key_norm) == (4, 16, False, False)
    assert shape.parameters == 1280


def test_a_head_that_is_tied_counts_once(folder: Folder) -> None:
    tied = {**LLAMA, "tie_word_embeddings": True}
    assert shape_of(folder(tied, embed__weight=[10, 64], lm_head__weight=[10, 64])).parameters == 640


def test_the_language_part_of_a_larger_model(folder: Folder) -> None:
    shape = shape_of(folder({"model_type": "x_vl", "text_config": LLAMA}, embed__weight=[10, 64]))
    assert (shape.hidden, shape.layers) == (64, 2)


def test_heads_are_tied_where_the_whole_model_says_so(folder: Folder) -> None:
    nested = {"tie_word_embeddings": True, "text_config": LLAMA}
    shape = shape_of(folder(nested, embed__weight=[10, 64], lm_head__weight=[10, 64]))
    assert (shape.tied, shape.parameters) == (True, 640)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.5),
        ("num_hidden_layers", 0),
        ("vocab_size", True),
        ("num_key_value_heads", -2),
        ("intermediate_size", "wide"),
        ("num_attention_heads", []),
        ("num_experts_per_tok", "2"),
    ],
)
def test_what_is_no_size_is_named_and_never_taken_for_absent(folder: Folder, name: str, value: object) -> None:
    with pytest.raises(ModelFileError, match=rf"config\.json: {name} is {re.escape(json.dumps(value))}: want a whole"):
        shape_of(folder({**LLAMA, name: value}, embed__weight=[10, 64]))


def test_layers_of_different_sizes_count_as_the_largest_and_that_is_said(folder: Folder) -> None:
    shape = shape_of(folder({**LLAMA, "intermediate_size": [96, 160]}, embed__weight=[10, 64]))
    assert shape.intermediate == 160
    assert shape.note == "its layers differ in intermediate_size: all are reckoned as the largest"


def test_heads_that_the_config_leaves_out_are_those_of_the_weights(folder: Folder) -> None:
    """Not hidden / heads each: some families have wider ones."""
    tower = {"vision__q_proj__weight": [8, 32]}
    shape = shape_of(folder(LLAMA, **tower, a__q_proj__weight=[128, 64], a__k_proj__weight=[64, 64]))
    assert (shape.head_dim, shape.kv_heads) == (32, 2)


def test_what_a_family_leaves_out_is_its_default(folder: Folder) -> None:
    """As the published Gemma 3, whose text_config names no heads."""
    inner = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2}
    shape = shape_of(folder({"model_type": "gemma3", "text_config": inner}, embed__weight=[10, 64]))
    assert (shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (64, 2, 8, 4, 256)
    assert (shape.vocabulary, shape.tied) == (262_208, True)


@pytest.mark.parametrize("trainers", [1, 2])
def test_a_reference_model_is_sharded_and_its_root_computes_whole(trainers: int) -> None:
    shape = QWEN3["1.7B"]
    layout = replace(LAYOUT, trainers=trainers, keep=False, checkpointing=True)
    more = memory_plan(shape, replace(layout, reference=True)).trainer_peak - memory_plan(shape, layout).trainer_peak
    assert more == 4 * shape.parameters // trainers + 2 * shape.root


def test_trainers_that_talk_to_each_other_have_room_for_it() -> None:
    one, two = (memory_plan(QWEN3["0.6B"], replace(LAYOUT, trainers=n)) for n in (1, 2))
    slack = [part(plan, "slack") - math.ceil(0.06 * plan.trainer_peak) for plan in (one, two)]
    assert slack == [640 << 20, (640 << 20) + (512 << 20)]


def test_embedding_and_head_are_one_matrix_where_they_are_tied_else_two() -> None:
    for shape, matrices in ((QWEN3["4B"], 1), (QWEN3["8B"], 2)):
        assert shape.root == matrices * shape.vocabulary * shape.hidden + shape.hidden
        assert shape.block * shape.layers + shape.root == shape.parameters


def test_what_is_not_the_engines_cache_is_shared_out_over_its_gpus() -> None:
    """But for its sampler, whose logits every one has, and its graphs."""
    one, two = (memory_plan(QWEN3["8B"], replace(LAYOUT, trainers=4, tensor_parallel=n)) for n in (1, 2))
    assert part(two, "engine: weights") * 2 == part(one, "engine: weights")
    whole = 4 * QWEN3["8B"].hidden * 8192 + 12 * 256 * QWEN3["8B"].vocabulary + GIB
    profiles = [part(plan, "engine: its profile") - whole for plan in (one, two)]
    assert profiles[0] == 2 * profiles[1] > 0


def test_what_trainer_and_engine_leave_on_a_shared_gpu_is_the_cache_and_no_more() -> None:
    plan = memory_plan(QWEN3["1.7B"], replace(LAYOUT, shared=True))
    assert plan.problem is None
    assert [gpu.total for gpu in plan.gpus] == [LAYOUT.gpu_bytes]


def test_an_engine_is_split_only_as_vllm_can_split_it() -> None:
    fourteen = QWEN3["14B"]  # 40 heads, 8 of keys and values
    assert [n for n in range(1, 41) if fourteen.splits(n)] == [1, 2, 4, 8, 40]
    single = replace(fourteen, heads=12, kv_heads=1)
    assert [n for n in range(1, 13) if single.splits(n)] == [1, 2, 3, 4, 6, 12]


@given(shapes, layouts)
def test_no_engine_is_proposed_that_vllm_cannot_split(shape: ModelShape, layout: Layout) -> None:
    for remedy in memory_plan(shape, layout).remedies:
        assert shape.splits(remedy.layout.tensor_parallel)


def test_a_mixture_of_experts_says_that_it_is_a_guess(folder: Folder) -> None:
    mixture = {**LLAMA, "num_experts_per_tok": 8, "moe_intermediate_size": 32}
    shape = shape_of(folder(mixture, embed__weight=[10, 64]))
    assert shape.intermediate == 8 * 32
    shared = {**mixture, "shared_expert_intermediate_size": 48, "n_shared_experts": 2}
    assert shape_of(folder(shared, embed__weight=[10, 64])).intermediate == 8 * 32 + 48 + 2 * 32
    assert "mixture of experts" in "\n".join(memory_plan(shape, LAYOUT).lines())


def test_a_cap_on_the_logits_counts_as_an_entropy_term_does(folder: Folder) -> None:
    capped = {**LLAMA, "final_logit_softcapping": 30.0}
    plain, shape = (shape_of(folder(config, embed__weight=[10, 64])) for config in (LLAMA, capped))
    assert (plain.capped, shape.capped) == (False, True)
    large = QWEN3["1.7B"]
    with_entropy = memory_plan(large, replace(LAYOUT, entropy=True))
    assert memory_plan(replace(large, capped=True), LAYOUT).trainer_peak == with_entropy.trainer_peak
    assert memory_plan(large, LAYOUT).trainer_peak < with_entropy.trainer_peak


def test_what_a_folder_lacks_is_said(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        shape_of(tmp_path)
    with pytest.raises(ModelFileError, match="no hidden_size"):
        shape_of(folder({}, embed__weight=[10, 64]))
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelFileError, match="safetensors"):
        shape_of(tmp_path)
    strange: list[list[Any]] = [["5", 64], [-5, 64], [5.5, 64]]
    for size in strange:
        with pytest.raises(ModelFileError, match="its header does not read"):
            shape_of(folder(LLAMA, embed__weight=size))


def test_the_page_on_gpus_has_the_plans_own_table_and_words() -> None:
    page = (Path(__file__).parents[3] / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert table() in page
    one = memory_plan(QWEN3["1.7B"], replace(BASE, shared=True, gpu_bytes=79 * GIB))
    assert "\n".join(one.lines()) in page
    assert str(memory_plan(QWEN3["8B"], replace(BASE, shared=True, gpu_bytes=139 * GIB)).problem) in page
