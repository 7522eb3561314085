"""Which GPUs trainers and engines get: `spec.ray` against the GPUs that there are. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from toolorchestra.api.cluster import Ray

HALF: Final = 0.5
"""What trainer and engine of one GPU ask Ray for. Ray counts only: how much memory each takes is the plan's matter."""


class PlacementError(ValueError):
    """It does not fit; the text says what to change."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """`shared`: a trainer and an engine on each GPU. Counts are of processes."""

    shared: bool
    trainers: int
    engines: int
    tensor_parallel: int = 1

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.trainers if self.shared else self.trainers + self.engines * self.tensor_parallel

    @property
    def gpus_per_trainer(self) -> float:
        """Asked of Ray."""
        return HALF if self.shared else 1.0

    @property
    def gpus_per_engine(self) -> float:
        """Asked of Ray."""
        return HALF if self.shared else float(self.tensor_parallel)

    def __str__(self) -> str:
        if self.shared:
            return "trainer and engine share it" if self.gpus == 1 else "a trainer and an engine on each"
        each = f" of {self.tensor_parallel} GPUs" if self.tensor_parallel > 1 else ""
        return f"{_some(self.trainers, 'trainer')}, {_some(self.engines, 'engine')}{each}"


def asked(ray: Ray, *, shared: bool) -> Placement:
    """What `spec.ray` asks for; PlacementError where its parts contradict each other."""
    trainers, engines, shards = ray.trainers.replicas, ray.engines.replicas, ray.engines.tensor_parallel_size
    if shared and (shards > 1 or trainers != engines):
        raise PlacementError(
            "spec.ray.placement: Shared puts one trainer and one engine on each GPU: it wants as many trainers.replicas"
            f" as engines.replicas ({trainers} and {engines} here) and engines.tensorParallelSize 1 ({shards} here)"
        )
    return Placement(shared=shared, trainers=trainers, engines=engines, tensor_parallel=shards)


def on_machine(ray: Ray, *, gpus: int) -> Placement:
    """On one machine with so many GPUs. PlacementError: more are wanted.

    What the file says holds, as on a cluster: GPUs beyond it stay idle. Where it does not say whether they are shared,
    the only GPU of a machine is.
    """
    shared = ray.placement == "Shared"
    apart = asked(ray, shared=shared)
    if apart.gpus <= gpus:
        return apart
    pairs = apart.trainers == apart.engines <= gpus and apart.tensor_parallel == 1
    if ray.placement is None and gpus == 1 and pairs:
        return asked(ray, shared=True)
    raise PlacementError(
        f"spec.ray wants {_some(apart.gpus, 'GPU')} ({apart}), and this machine shows {gpus}: "
        + " or ".join(_fitting(apart, gpus=gpus, pairs=pairs))
    )


def _fitting(wanted: Placement, *, gpus: int, pairs: bool) -> Iterator[str]:
    """What to set so that it fits on so many GPUs, by field."""
    if wanted.shared:
        yield f"set spec.ray.trainers.replicas and spec.ray.engines.replicas to {gpus} at most"
        return
    if pairs:
        yield "set spec.ray.placement: Shared"
    if gpus > 1:
        sizes = " + ".join(("spec.ray.trainers.replicas", "spec.ray.engines.replicas"))
        if wanted.tensor_parallel > 1:
            sizes += " x spec.ray.engines.tensorParallelSize"
        yield f"lower {sizes} to {gpus}"
    elif not pairs:
        ones = "spec.ray.trainers.replicas, spec.ray.engines.replicas and spec.ray.engines.tensorParallelSize"
        yield f"set {ones} to 1 and leave spec.ray.placement out: trainer and engine then share the GPU"


def _some(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
