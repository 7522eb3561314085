"""Counts the GPUs and pods that resources request, from the files alone. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.api.accelerators import accelerator, mistakes
from toolorchestra.api.base import ComputeResources, Resources
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.cluster_client.preflight.line import Line


@dataclass(frozen=True)
class Demand:
    """A number of equal pods; `gpu`: the GPU resource that they request, "" for none."""

    what: str
    pods: int
    gpu: str = ""
    gpus_per_pod: int = 0
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    claims: bool = False
    """Whether the pods use devices from resource claims in podTemplate."""
    wrong: tuple[str, ...] = ()
    """Mistakes for which the operator refuses the resource: they leave open on what the pods compute."""

    @property
    def gpus(self) -> int:
        return self.pods * self.gpus_per_pod


def demands(pools: Sequence[ExpertPool], trainings: Sequence[OrchestratorTraining]) -> tuple[Demand, ...]:
    """Return the demands of all pools and trainings together."""
    return (*(each for pool in pools for each in of_pool(pool)), *(d for one in trainings for d in of_training(one)))


def of_pool(pool: ExpertPool) -> tuple[Demand, ...]:
    """Return a pool's demand; none for an Endpoint, which is served elsewhere."""
    if pool.spec.vllm is None:
        return ()
    vllm = pool.spec.vllm
    return (_demand(f"pool {pool.metadata.name}", vllm.replicas, vllm.resources, vllm.pod_template),)


def of_training(training: OrchestratorTraining) -> tuple[Demand, ...]:
    """Return the demands of a training: head, trainers, engines and rollout workers."""
    ray, rollout, name = training.spec.ray, training.spec.rollout, training.metadata.name
    nodes = [("trainers", ray.trainers.replicas, ray.trainers.resources)]
    if ray.placement == "Shared":
        nodes = [("trainers with engines", *nodes[0][1:])]
    else:
        nodes.append(("engines", ray.engines.replicas, ray.engines.resources))
    return (
        _demand(f"{name} head", 1, ray.head.resources, ray.pod_template),
        *(_demand(f"{name} {what}", pods, wanted, ray.pod_template) for what, pods, wanted in nodes),
        _demand(f"{name} workers", rollout.workers, rollout.resources or Resources(), rollout.pod_template),
    )


def _demand(what: str, pods: int, wanted: Resources, overlay: Mapping[str, Any] | None) -> Demand:
    found = accelerator(wanted)
    count = found.count or 0 if found else 0
    gpu, claims = (found.resource if found and count else ""), found is not None and found.claimed
    wrong = list[str]()
    if isinstance(wanted, ComputeResources):
        wrong += mistakes(wanted, claims=bool(_spec(overlay).get("resourceClaims")))
    return Demand(what, pods, gpu, count, _node_selector(overlay), claims, tuple(wrong))


def _node_selector(overlay: Mapping[str, Any] | None) -> dict[str, str]:
    selector = _spec(overlay).get("nodeSelector")
    return dict(selector) if isinstance(selector, Mapping) else {}


def _spec(overlay: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the overlay's pod spec; empty where it is not a map (the operator refuses such an overlay)."""
    spec = (overlay or {}).get("spec")
    return spec if isinstance(spec, Mapping) else {}


def gpu_lines(found: Sequence[Demand]) -> Iterator[Line]:
    """Yield how many GPUs of which kind are requested, and by which pods."""
    for one in found:
        yield from (Line("missing", "GPUs", f"{one.what}: {said}") for said in one.wrong)
    totals: Counter[str] = Counter()
    for one in found:
        totals[one.gpu] += one.gpus
    for gpu, total in sorted(totals.items()):
        if gpu:
            shares = ", ".join(f"{d.what} {d.pods} x {d.gpus_per_pod}" for d in found if d.gpu == gpu)
            yield Line("ok", "GPUs", f"{total} {gpu}: {shares}")
    if claimed := [one.what for one in found if one.claims]:
        yield Line("note", "GPUs", f"claims in podTemplate, not counted here: {', '.join(claimed)}")
    elif not any(totals[gpu] for gpu in totals if gpu) and not any(one.wrong for one in found):
        yield Line("note", "GPUs", "none is requested: everything runs on CPUs, with the CPU image")
    yield Line("ok", "pods", ", ".join(f"{one.what} {one.pods}" for one in found) or "none")
