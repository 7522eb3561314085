"""Whether models fit where they are to run, as far as the files tell their size. Pure but for local folders.

A size is known from a local folder's weights, or guessed from a repository's name (`…-8B`). Weights only: what
activations and the key-value cache need comes on top, so that "fits" is a lower bound and "does not fit" is certain.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from toolorchestra.api.base import Resources
from toolorchestra.api.pool import GPU_RESOURCES, ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.remote.preflight.line import Line

GIB: Final = 2**30
USABLE: Final = 0.9
"""Share of a GPU that vLLM takes (`--gpu-memory-utilization`)."""
TRAINER_BYTES: Final = 16
"""Per parameter, sharded over the trainers: float32 weights, their gradient, and the two moments of AdamW."""
REFERENCE_BYTES: Final = 4
"""Per parameter, of the frozen model that a KL term is measured against."""
HALF, FULL = 2, 4
_LITTLE: Final = 0.15
"""Share left over below which there is little room for the key-value cache."""

_SIZE = re.compile(r"(?<![A-Za-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\d+)?)([numkMGTPE]|[KMGTPE]i|)")
_SUFFIXES = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(1000)}
_SUFFIXES |= {s: Decimal(1000) ** i for i, s in enumerate("MGTPE", 2)}
_SUFFIXES |= {f"{s}i": Decimal(1024) ** i for i, s in enumerate("KMGTPE", 1)}
_FEWER_BYTES = (("fp8", 1.0), ("int8", 1.0), ("w8a8", 1.0), ("awq", 0.6), ("gptq", 0.6), ("int4", 0.6), ("4bit", 0.6))
"""Bytes per parameter of repositories that say in their name how they are quantised."""


def bytes_of(quantity: str | int) -> int | None:
    """A quantity of memory in bytes; None: it is none."""
    spelled = _QUANTITY.fullmatch(str(quantity))
    return int(Decimal(spelled[1]) * _SUFFIXES[spelled[2]]) if spelled else None


@dataclass(frozen=True)
class Size:
    """Parameters of a model, and how that is known."""

    parameters: float
    known: str

    def __str__(self) -> str:
        number = self.parameters
        text = f"{number / 1e9:.3g} B" if number >= 1e9 else f"{number / 1e6:.3g} M"
        return f"{text} parameters ({self.known})"


def size_of(uri: str) -> Size | None:
    """Of a model; None where nothing tells."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file" and (found := _of_folder(Path(rest))) is not None:
        return found
    sizes = [
        int(times or 1) * float(number) * (1e9 if unit in "bB" else 1e6) for times, number, unit in _SIZE.findall(rest)
    ]
    return Size(max(sizes), "by its name") if sizes else None


def _of_folder(folder: Path) -> Size | None:
    """From the weights' headers: shapes are in the first bytes of each file."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        with file.open("rb") as opened:
            header: Mapping[str, Any] = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                total += math.prod(tensor["shape"])
    return Size(total, "by its weights") if total else None


def served_bytes(uri: str) -> float:
    """Bytes per parameter as vLLM serves a repository: bfloat16, unless its name says how it is quantised."""
    name = uri.lower()
    return next((size for mark, size in _FEWER_BYTES if mark in name), HALF)


def pool_lines(pool: ExpertPool, *, gpu_bytes: int | None) -> Iterator[Line]:
    """A vLLM pool's replica. `gpu_bytes`: memory of one GPU, where it is known."""
    vllm = pool.spec.vllm
    if vllm is None:
        return
    about = f"pool {pool.metadata.name}"
    each = served_bytes(vllm.model.uri)
    yield _served(about, vllm.model.uri, vllm.resources, each, vllm.tensor_parallel_size, gpu_bytes)


def training_lines(training: OrchestratorTraining, *, gpu_bytes: int | None) -> Iterator[Line]:
    """Engines and trainers."""
    spec = training.spec
    engines, trainers, name = spec.ray.engines, spec.ray.trainers, training.metadata.name
    served = HALF if _on_gpu(engines.resources) else FULL
    yield _served(f"{name} engines", spec.model.uri, engines.resources, served, engines.tensor_parallel_size, gpu_bytes)
    size, about = size_of(spec.model.uri), f"{name} trainers"
    if size is None:
        return
    each = TRAINER_BYTES + (REFERENCE_BYTES if spec.algorithm.kl.coefficient > 0 else 0)
    need = size.parameters * each / trainers.replicas
    what = f"{_gib(need)} of weights, gradients and optimizer state each ({each} bytes a parameter over "
    what += f"{trainers.replicas})"
    if _on_gpu(trainers.resources):
        yield _held(about, what, need, gpu_bytes, "GPU", remedy="raise spec.ray.trainers.replicas: they share it")
        host = size.parameters * FULL
        yield _limited(about, f"{_gib(host)} of host memory while the weights load", host, trainers.resources)
    else:
        yield _limited(about, what, need, trainers.resources)


def _served(about: str, uri: str, wanted: Resources, each: float, shards: int, gpu_bytes: int | None) -> Line:
    size, on_gpu = size_of(uri), _on_gpu(wanted)
    if size is None:
        return Line("unknown", "memory", f"{about}: nothing tells how large {uri} is")
    need = size.parameters * each / shards
    what = f"{size}: {_gib(need)} of weights" + (f" on each of {shards} GPUs" if shards > 1 else "")
    if on_gpu:
        return _held(about, what, need, gpu_bytes, "GPU", share=USABLE, remedy="raise tensorParallelSize")
    return _limited(about, what, need, wanted)


def _held(
    about: str, what: str, need: float, there: int | None, where: str, *, remedy: str, share: float = 1.0
) -> Line:
    if there is None:
        return Line("unknown", "memory", f"{about}: {what}; memory of a GPU is not known", "give --gpu-memory 80Gi")
    usable = there * share
    text = f"{about}: {what} of {_gib(usable)} usable on a {where}"
    if need > usable:
        return Line("missing", "memory", text, remedy)
    if need > usable * (1 - _LITTLE):
        return Line("note", "memory", f"{text}: little is left for all else", remedy)
    return Line("ok", "memory", text)


def _limited(about: str, what: str, need: float, wanted: Resources) -> Line:
    """Against the container's memory limit."""
    limit = bytes_of(wanted.limits["memory"]) if "memory" in wanted.limits else None
    if limit is None:
        return Line("ok", "memory", f"{about}: {what}; its container has no memory limit")
    text = f"{about}: {what} of the {_gib(limit)} that its container may have"
    return Line(
        "missing" if need > limit else "ok", "memory", text, "raise resources.limits.memory" if need > limit else ""
    )


def _on_gpu(wanted: Resources) -> bool:
    return any(gpu in wanted.limits for gpu in GPU_RESOURCES)


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB"
