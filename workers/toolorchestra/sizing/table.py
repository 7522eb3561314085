"""The table in docs/gpu.md of what fits on which GPUs. `python -m toolorchestra.sizing.table` prints it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.memory import GIB, gib, memory_plan
from toolorchestra.sizing.model_shape import QWEN3, ModelShape

MODELS: Final = ("0.6B", "1.7B", "4B", "8B")
CARDS: Final = {"80 GB": 79 * GIB, "141 GB": 139 * GIB}
"""Nominal memory → the memory that CUDA sees."""
BASE: Final = Layout(gpu_bytes=0, tokens_per_micro_batch=16384, max_model_len=8192, max_num_seqs=256)
LAYOUTS: Final = {
    "1, shared": replace(BASE, shared=True),
    "1 + 1": BASE,
    "4 + 4": replace(BASE, trainers=4, engines=4),
}


def table() -> str:
    """Return the table as Markdown, with a row per model and layout."""
    rows = [("Qwen3", "GPUs", *CARDS), ("---",) * (2 + len(CARDS))]
    for model in MODELS:
        for name, layout in LAYOUTS.items():
            cells = [_cell(QWEN3[model], replace(layout, gpu_bytes=size)) for size in CARDS.values()]
            rows.append((model, name, *cells))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(shape: ModelShape, layout: Layout) -> str:
    plan = memory_plan(shape, layout)
    if plan.problem is not None:
        return f"no: wants {_gpus(plan.remedies[-1].layout)}" if plan.remedies else "no"
    how = ", checkpointed" if plan.checkpointing else ""
    return f"{gib(plan.trainer_peak)}{how}; {plan.kv_sequences:.0f} sequences"


def _gpus(layout: Layout) -> str:
    """Return the layout in the form of the table's row names."""
    if layout.shared:
        return f"{layout.gpus}, shared"
    return f"{layout.trainers} + {layout.engines * layout.tensor_parallel}"


if __name__ == "__main__":
    print(table(), end="")
