"""Models and layouts for plans of the GPUs' memory, drawn and fixed."""

from __future__ import annotations

from hypothesis import strategies as st

from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.memory import GIB, MemoryPlan
from toolorchestra.sizing.model_shape import QWEN3

LAYOUT = Layout(gpu_bytes=79 * GIB, tokens_per_micro_batch=16384, max_model_len=4096, max_num_seqs=256)


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


def part(plan: MemoryPlan, name: str) -> int:
    return next(size for gpu in plan.gpus for each, size in gpu.parts if each.startswith(name))
