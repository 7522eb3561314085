"""What a plan of the GPUs' memory promises, whatever the model and the layout; and single cases."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.memory_layouts import LAYOUT, layouts, part, shapes
from toolorchestra.sizing.engine_memory import kv_bytes
from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.memory import GIB, WANTED_SEQUENCES, memory_plan
from toolorchestra.sizing.model_shape import QWEN3, ModelShape
from toolorchestra.sizing.table import BASE, table


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
    assert huge.problem.endswith(". No known change makes it fit: use larger GPUs")


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


def test_the_page_on_gpus_has_the_plans_own_table_and_words() -> None:
    page = (Path(__file__).parents[3] / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert table() in page
    one = memory_plan(QWEN3["1.7B"], replace(BASE, shared=True, gpu_bytes=79 * GIB))
    assert "\n".join(one.lines()) in page
    assert str(memory_plan(QWEN3["8B"], replace(BASE, shared=True, gpu_bytes=139 * GIB)).problem) in page
