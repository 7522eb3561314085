"""Checks whether models fit into memory, where the files tell their size. Pure, except that it reads local folders.

Where the model's shape is known (from a local folder, or from a name with a published shape), sizing/memory.py plans a
training's GPU memory in detail. Otherwise the size comes from the weights or from the name (`…-8B`), and only weights,
gradients and optimizer state are counted: then "does not fit" is certain and "fits" is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Final

from toolorchestra.api.accelerators import accelerator
from toolorchestra.api.base import Resources
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.cluster_client.preflight.line import Line
from toolorchestra.gpus.placement import PlacementError, asked
from toolorchestra.policy.model_file import ModelFileError
from toolorchestra.sizing.division import layout_of, why_not_split
from toolorchestra.sizing.memory import MemoryPlan, gib, memory_plan
from toolorchestra.sizing.model_shape import QWEN3, ModelShape, parameters_of, shape_of

USABLE: Final = 0.9
"""Share of a GPU's memory that vLLM uses (`--gpu-memory-utilization`)."""
TRAINER_BYTES: Final = 16
"""Bytes per parameter, sharded over the trainers: float32 weights, their gradient, and the two moments of AdamW."""
REFERENCE_BYTES: Final = 4
"""Bytes per parameter of the frozen reference model of a KL term."""
HALF, FULL = 2, 4
"""Bytes per parameter: bfloat16, float32."""
_LITTLE: Final = 0.15
"""If less than this share stays free, the key-value cache has little space."""

_SIZE = re.compile(r"(?<![A-Za-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])")
_PUBLISHED = re.compile(r"qwen3-(\d+(?:\.\d+)?b)(?![a-z0-9]|-a\d)", re.IGNORECASE)
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\d{1,2})?)([numkMGTPE]|[KMGTPE]i|)")
_SUFFIXES = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(1000)}
_SUFFIXES |= {s: Decimal(1000) ** i for i, s in enumerate("MGTPE", 2)}
_SUFFIXES |= {f"{s}i": Decimal(1024) ** i for i, s in enumerate("KMGTPE", 1)}
_FEWER_BYTES = (("fp8", 1.0), ("int8", 1.0), ("w8a8", 1.0), ("awq", 0.6), ("gptq", 0.6), ("int4", 0.6), ("4bit", 0.6))
"""Bytes per parameter, by the mark in the name of a repository that says how it is quantised."""


def bytes_of(quantity: str | int) -> int | None:
    """Return a Kubernetes quantity in bytes; None where it is not a quantity."""
    spelled = _QUANTITY.fullmatch(str(quantity))
    return int(Decimal(spelled[1]) * _SUFFIXES[spelled[2]]) if spelled else None


@dataclass(frozen=True)
class Size:
    """Number of parameters of a model, and where it is known from."""

    parameters: float
    known: str

    def __str__(self) -> str:
        number = self.parameters
        text = f"{number / 1e9:.3g} B" if number >= 1e9 else f"{number / 1e6:.3g} M"
        return f"{text} parameters ({self.known})"


def size_of(uri: str) -> Size | None:
    """Return the size of a model, from its weights or its name; None where neither tells it."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file" and (found := _of_folder(Path(rest))) is not None:
        return found
    sizes = [
        int(times or 1) * float(number) * (1e9 if unit in "bB" else 1e6) for times, number, unit in _SIZE.findall(rest)
    ]
    return Size(max(sizes), "by its name") if sizes else None


def _of_folder(folder: Path) -> Size | None:
    """Return the size from the headers of the weight files; None where they cannot be read."""
    try:
        total = parameters_of(folder) if folder.is_dir() else None
    except ModelFileError:  # the start of the training reports what is wrong with the file
        return None
    return Size(total, "by its weights") if total else None


def known_shape(uri: str) -> ModelShape | None:
    """Return a model's shape, from a local folder or as published for its name; None where it is not known."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        try:
            return shape_of(Path(rest))
        except ModelFileError:
            return None
    named = _PUBLISHED.search(rest.rsplit("/", 1)[-1])
    published = QWEN3.get(named[1].upper()) if named and served_bytes(uri) == HALF else None
    return None if named is None or published is None else replace(published, note=f"shape as published of {named[0]}")


def served_bytes(uri: str) -> float:
    """Return the bytes per parameter when vLLM serves the model: bfloat16, unless its name tells a quantisation."""
    name = uri.lower()
    return next((size for mark, size in _FEWER_BYTES if mark in name), HALF)


def pool_lines(pool: ExpertPool, *, gpu_bytes: int | None) -> Iterator[Line]:
    """Check the memory of one replica of a vLLM pool. `gpu_bytes`: memory of one GPU; None if unknown."""
    vllm = pool.spec.vllm
    if vllm is None:
        return
    about = f"pool {pool.metadata.name}"
    each = served_bytes(vllm.model.uri)
    yield _served(about, vllm.model.uri, vllm.resources, each, vllm.tensor_parallel_size, gpu_bytes)


def training_lines(training: OrchestratorTraining, *, gpu_bytes: int | None) -> Iterator[Line]:
    """Check the memory of a training's engines and trainers. `gpu_bytes`: memory of one GPU; None if unknown."""
    spec = training.spec
    engines, trainers, name = spec.ray.engines, spec.ray.trainers, training.metadata.name
    shape = known_shape(spec.model.uri)
    if served_bytes(spec.model.uri) != HALF:
        text = f"{name}: {spec.model.uri} seems to be quantized, and quantized weights cannot be trained"
        yield Line("note", "memory", text, "set spec.model.uri to the model before quantization")
    on_gpus = _on_gpu(trainers.resources) and (spec.ray.placement == "Shared" or _on_gpu(engines.resources))
    if shape is not None and gpu_bytes is not None and on_gpus:
        try:
            placement = asked(spec.ray, shared=spec.ray.placement == "Shared")
        except PlacementError as error:
            yield Line("missing", "memory", f"{name}: {error}")
            return
        if why := why_not_split(shape, placement.tensor_parallel):
            yield Line("missing", "memory", f"{name}: {why}")
        yield from _planned(name, memory_plan(shape, layout_of(spec, placement, gpu_bytes=gpu_bytes)))
        yield _loading(name, shape.parameters, trainers.resources)
        return
    served = HALF if _on_gpu(engines.resources) else FULL
    yield _served(f"{name} engines", spec.model.uri, engines.resources, served, engines.tensor_parallel_size, gpu_bytes)
    size, about = size_of(spec.model.uri), f"{name} trainers"
    if size is None:
        return
    each = TRAINER_BYTES + (REFERENCE_BYTES if spec.algorithm.kl.coefficient > 0 else 0)
    need = size.parameters * each / trainers.replicas
    what = f"{gib(need)} of weights, gradients and optimizer state each ({each} bytes per parameter over "
    what += f"{trainers.replicas})"
    if _on_gpu(trainers.resources):
        remedy = "raise spec.ray.trainers.replicas: the replicas share this memory"
        yield _held(about, what, need, gpu_bytes, "GPU", remedy=remedy)
        yield _loading(name, size.parameters, trainers.resources)
    else:
        yield _limited(about, what, need, trainers.resources)


def _planned(name: str, plan: MemoryPlan) -> Iterator[Line]:
    """Yield the detailed memory plan of every kind of GPU."""
    remedy = "; or ".join(one.words for one in plan.remedies)
    for gpu in plan.gpus:
        head, *parts = gpu.lines()
        short = gpu.total > gpu.capacity
        yield Line("missing" if short else "ok", "memory", f"{name} {head}", remedy if short else "")
        yield from (Line("ok", "memory", part) for part in parts)
    yield from (Line("ok", "memory", f"{name} {text}") for text in plan.choices())


def _loading(name: str, parameters: float, wanted: Resources) -> Line:
    need = parameters * FULL
    return _limited(f"{name} trainers", f"{gib(need)} of host memory while the weights load", need, wanted)


def _served(about: str, uri: str, wanted: Resources, each: float, shards: int, gpu_bytes: int | None) -> Line:
    size, on_gpu = size_of(uri), _on_gpu(wanted)
    if size is None:
        return Line("unknown", "memory", f"{about}: the size of {uri} is not known")
    need = size.parameters * each / shards
    what = f"{size}: {gib(need)} of weights" + (f" on each of {shards} GPUs" if shards > 1 else "")
    if on_gpu:
        return _held(about, what, need, gpu_bytes, "GPU", share=USABLE, remedy="raise tensorParallelSize")
    return _limited(about, what, need, wanted)


def _held(
    about: str, what: str, need: float, there: int | None, where: str, *, remedy: str, share: float = 1.0
) -> Line:
    if there is None:
        return Line("unknown", "memory", f"{about}: {what}; the GPUs' memory is not known", "give --gpu-memory 79Gi")
    usable = there * share
    text = f"{about}: {what} of {gib(usable)} usable on a {where}"
    if need > usable:
        return Line("missing", "memory", text, remedy)
    if need > usable * (1 - _LITTLE):
        return Line("note", "memory", f"{text}: little is left for the rest", remedy)
    return Line("ok", "memory", text)


def _limited(about: str, what: str, need: float, wanted: Resources) -> Line:
    """Compare the need with the container's memory limit."""
    limit = bytes_of(wanted.limits["memory"]) if "memory" in wanted.limits else None
    if limit is None:
        return Line("ok", "memory", f"{about}: {what}; its spec has no memory limit, so the chart's limit applies")
    text = f"{about}: {what} of the {gib(limit)} that its container may use"
    return Line(
        "missing" if need > limit else "ok", "memory", text, "raise resources.limits.memory" if need > limit else ""
    )


def _on_gpu(wanted: Resources) -> bool:
    return accelerator(wanted) is not None
