"""Which kernels a piece of work runs, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gpu.finding import Figure, Finding, Note

ROWS = 20
KINDS = (
    ("attention", ("flash", "fmha", "attention")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "xmma", "cublas", "aten::mm", "aten::addmm", "aten::bmm")),
    ("copies", ("memcpy", "memset", "copy")),
)
"""A kernel is of the first kind whose word its name holds; the rest is element by element, reductions and the like."""


def kind_of(name: str) -> str:
    """Which kind of kernel it is."""
    lower = name.lower()
    return next((kind for kind, words in KINDS if any(word in lower for word in words)), "other kernels")


def kernels(work: Callable[[], object], *, cuda: bool) -> Iterator[Finding]:
    """Share of the kernels' time by kind, and the largest of them as a table."""
    with profile(activities=[ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]) as found:
        work()
        if cuda:
            torch.cuda.synchronize()
    rows = sorted(((_seconds(row, cuda), row.count, row.key) for row in found.key_averages()), reverse=True)
    total = sum(seconds for seconds, _, _ in rows) or 1.0
    shares: dict[str, float] = {}
    for seconds, _, name in rows:
        shares[kind_of(name)] = shares.get(kind_of(name), 0.0) + seconds / total
    for kind, share in sorted(shares.items(), key=lambda item: -item[1]):
        yield Figure(name=f"one micro-batch: {kind}", value=share, unit="of the kernels' time")
    lines = [f"{s * 1000:9.2f} ms {s / total:6.1%} {count:6} x  {name[:110]}" for s, count, name in rows[:ROWS]]
    yield Note(name="kernels of one micro-batch", text=f"{total * 1000:9.2f} ms in all\n" + "\n".join(lines))


def _seconds(row: Any, cuda: bool) -> float:
    return float(row.self_device_time_total if cuda else row.self_cpu_time_total) / 1e6
