"""Finds changes that would make a training fit into GPU memory. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.model_shape import ModelShape

MOST_GPUS: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change that makes the training fit: as text, and as the new layout."""

    words: str
    layout: Layout


def remedies(
    shape: ModelShape, layout: Layout, *, fits: Callable[[Layout], bool], there: int | None
) -> Iterator[Remedy]:
    """Yield remedies, the smallest change first; each one alone is enough.

    `there`: number of GPUs of the machine; a remedy that needs more mentions it."""
    free = replace(layout, checkpointing=None)
    if layout.checkpointing is False and fits(free):
        yield Remedy(words="activation checkpointing", layout=free)

    def with_tokens(tokens: int) -> Layout:
        return replace(free, tokens_per_micro_batch=tokens)

    tokens = _largest(layout.max_model_len, layout.tokens_per_micro_batch - 1, lambda t: fits(with_tokens(t)))
    if tokens is not None:
        yield Remedy(words=f"spec.algorithm.tokensPerMicroBatch of at most {tokens}", layout=with_tokens(tokens))

    def with_length(length: int) -> Layout:
        return replace(free, tokens_per_micro_batch=min(length, free.tokens_per_micro_batch), max_model_len=length)

    if tokens is None:
        length = _largest(16, layout.max_model_len - 1, lambda n: fits(with_length(n)))
        if length is not None:
            words = f"spec.rollout.maxPromptTokens + maxResponseTokens of at most {length}"
            if length < layout.tokens_per_micro_batch:
                words += ", and spec.algorithm.tokensPerMicroBatch no more than that"
            yield Remedy(words=words, layout=with_length(length))
    apart = _apart(shape, free, fits)
    together = _together(free, fits) if layout.shared else None
    if together is not None and (apart is None or together.gpus < apart.gpus):
        both = f"spec.ray.trainers.replicas and engines.replicas {together.trainers}"
        yield Remedy(words=f"{_gpus(together, there)}: {both}, placement Shared", layout=together)
    elif apart is not None:
        words = f"spec.ray.trainers.replicas {apart.trainers}, engines.replicas {apart.engines}"
        if apart.tensor_parallel > layout.tensor_parallel:
            words += f", engines.tensorParallelSize {apart.tensor_parallel}"
        if layout.shared:
            words += ", placement Separate"
        yield Remedy(words=f"{_gpus(apart, there)}: {words}", layout=apart)


def _gpus(layout: Layout, there: int | None) -> str:
    """Return the number of GPUs as text; if the machine has fewer, with its number."""
    missing = f" (here: {there})" if there is not None and layout.gpus > there else ""
    return f"{layout.gpus} GPUs{missing}"


def _apart(shape: ModelShape, layout: Layout, fits: Callable[[Layout], bool]) -> Layout | None:
    """Return the smallest layout with separate trainers and engines: first the engines' width, then the trainers."""
    many = replace(layout, shared=False, trainers=MOST_GPUS)
    widths = filter(shape.splits, range(layout.tensor_parallel, min(64, shape.heads) + 1))
    over = next((over for over in widths if fits(replace(many, tensor_parallel=over))), None)
    if over is None:
        return None
    wide = replace(many, tensor_parallel=over)
    trainers = _smallest(layout.trainers, MOST_GPUS, lambda n: fits(replace(wide, trainers=n)))
    return None if trainers is None else replace(wide, trainers=trainers)


def _together(layout: Layout, fits: Callable[[Layout], bool]) -> Layout | None:
    """Return the smallest layout with a trainer and an engine on every GPU."""
    number = _smallest(layout.trainers, MOST_GPUS, lambda n: fits(replace(layout, trainers=n, engines=n)))
    return None if number is None else replace(layout, trainers=number, engines=number)


def _largest(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """Return the largest n in [low, high] that holds, if all below it hold; None if not even `low` holds."""
    if high < low or not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _smallest(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """Return the smallest n in [low, high] that holds, if all above it hold; None if not even `high` holds."""
    found = _largest(-high, -low, lambda n: holds(-n))
    return None if found is None else -found
