"""Assigns GPUs to trainers and engines: `spec.ray` against the available GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from toolorchestra.api.cluster import Ray

HALF: Final = 0.5
"""Request to Ray by a trainer or an engine that share a GPU. For Ray this is only a count; the plan divides memory."""


class PlacementError(ValueError):
    """The request does not fit. The message says what to change."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Numbers of trainer and engine processes. `shared`: a trainer and an engine on each GPU."""

    shared: bool
    trainers: int
    engines: int
    tensor_parallel: int = 1

    @property
    def gpus(self) -> int:
        """Number of GPUs in use."""
        return self.trainers if self.shared else self.trainers + self.engines * self.tensor_parallel

    @property
    def gpus_per_trainer(self) -> float:
        """GPU request to Ray of one trainer."""
        return HALF if self.shared else 1.0

    @property
    def gpus_per_engine(self) -> float:
        """GPU request to Ray of one engine."""
        return HALF if self.shared else float(self.tensor_parallel)

    def __str__(self) -> str:
        if self.shared:
            return "trainer and engine share it" if self.gpus == 1 else "a trainer and an engine on each"
        each = f" of {self.tensor_parallel} GPUs" if self.tensor_parallel > 1 else ""
        return f"{_some(self.trainers, 'trainer')}, {_some(self.engines, 'engine')}{each}"


def asked(ray: Ray, *, shared: bool) -> Placement:
    """Return the placement that `spec.ray` asks for. PlacementError if its fields contradict each other."""
    trainers, engines, shards = ray.trainers.replicas, ray.engines.replicas, ray.engines.tensor_parallel_size
    if shared and (shards > 1 or trainers != engines):
        raise PlacementError(
            "spec.ray.placement: Shared puts one trainer and one engine on each GPU: it needs trainers.replicas equal"
            f" to engines.replicas ({trainers} and {engines} here) and engines.tensorParallelSize 1 ({shards} here)"
        )
    return Placement(shared=shared, trainers=trainers, engines=engines, tensor_parallel=shards)


def on_machine(ray: Ray, *, gpus: int) -> Placement:
    """Return the placement on one machine with `gpus` GPUs. PlacementError if it needs more.

    The resource decides, as on a cluster: other GPUs stay idle. If it does not say whether trainer and engine share
    GPUs, they share the only GPU of a machine.
    """
    shared = ray.placement == "Shared"
    apart = asked(ray, shared=shared)
    if apart.gpus <= gpus:
        return apart
    pairs = apart.trainers == apart.engines <= gpus and apart.tensor_parallel == 1
    if ray.placement is None and gpus == 1 and pairs:
        return asked(ray, shared=True)
    raise PlacementError(
        f"spec.ray needs {_some(apart.gpus, 'GPU')} ({apart}), but this machine has {gpus}: "
        + " or ".join(_fitting(apart, gpus=gpus, pairs=pairs))
    )


def _fitting(wanted: Placement, *, gpus: int, pairs: bool) -> Iterator[str]:
    """Yield the changes, by field, with which it fits on `gpus` GPUs."""
    if wanted.shared:
        yield f"set spec.ray.trainers.replicas and spec.ray.engines.replicas to at most {gpus}"
        return
    if pairs:
        yield "set spec.ray.placement: Shared"
    if gpus > 1:
        sizes = " + ".join(("spec.ray.trainers.replicas", "spec.ray.engines.replicas"))
        if wanted.tensor_parallel > 1:
            sizes += " x spec.ray.engines.tensorParallelSize"
        yield f"reduce {sizes} to {gpus}"
    elif not pairs:
        ones = "spec.ray.trainers.replicas, spec.ray.engines.replicas and spec.ray.engines.tensorParallelSize"
        yield f"set {ones} to 1 and leave spec.ray.placement out: trainer and engine then share the GPU"


def _some(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
