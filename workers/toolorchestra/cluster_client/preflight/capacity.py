"""Checks whether the nodes have the requested GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from toolorchestra.cluster_client.preflight.compute import Demand
from toolorchestra.cluster_client.preflight.facts import Facts, Hidden, Json
from toolorchestra.cluster_client.preflight.line import Line

MEMORY_LABEL = "nvidia.com/gpu.memory"
"""Node label with the memory of one GPU, in MiB, from NVIDIA's GPU feature discovery."""


def capacity_lines(facts: Facts, demands: Sequence[Demand]) -> Iterator[Line]:
    """Yield, for each kind of GPU, how many are requested, allocatable and in use, and pods that fit on no node."""
    wanted = [one for one in demands if one.gpus]
    if not wanted:
        return
    if isinstance(facts.nodes, Hidden):
        yield Line("unknown", "nodes", facts.nodes.why)
        return
    for gpu in dict.fromkeys(one.gpu for one in wanted):
        yield from _of_kind(gpu, [one for one in wanted if one.gpu == gpu], facts.nodes, facts.pods)


def _of_kind(
    gpu: str, wanted: Sequence[Demand], nodes: Sequence[Json], pods: Sequence[Json] | Hidden
) -> Iterator[Line]:
    usable = [node for node in nodes if not (node.get("spec") or {}).get("unschedulable")]
    total, need = sum(_allocatable(node, gpu) for node in usable), sum(one.gpus for one in wanted)
    holders = sum(1 for node in usable if _allocatable(node, gpu))
    used = None if isinstance(pods, Hidden) else sum(_used(pod, gpu) for pod in pods)
    text = f"{need} {gpu} wanted, {total} allocatable on {holders} nodes"
    text += ", use unknown" if used is None else f", {used} in use"
    remedy = "add nodes, or request fewer GPUs (replicas, tensorParallelSize)"
    if need > total:
        yield Line("missing", "nodes", text, remedy if total else f"{remedy}; is the device plugin of {gpu} installed?")
    elif used is not None and need > total - used:
        yield Line("note", "nodes", f"{text}: pods will wait", "wait, or suspend another training")
    else:
        yield Line("ok", "nodes", text)
    for one in wanted:
        fitting = [node for node in usable if _matches(node, one.node_selector)]
        if one.pods and max((_allocatable(node, gpu) for node in fitting), default=0) < one.gpus_per_pod:
            where = f" with labels {_labels(one.node_selector)}" if one.node_selector else ""
            text = f"{one.what}: no node{where} has {one.gpus_per_pod} {gpu} for one pod"
            yield Line("missing", "nodes", text, "change nodeSelector or the GPUs per pod, or add such a node")


def gpu_bytes(facts: Facts) -> int | None:
    """Return the memory of the largest kind of GPU in bytes, from the nodes' labels; None where no node has one."""
    if isinstance(facts.nodes, Hidden):
        return None
    told = [(node["metadata"].get("labels") or {}).get(MEMORY_LABEL, "") for node in facts.nodes]
    return max((int(size) * 2**20 for size in told if size.isdigit()), default=None)


def _allocatable(node: Json, gpu: str) -> int:
    return int(((node.get("status") or {}).get("allocatable") or {}).get(gpu, 0))


def _used(pod: Json, gpu: str) -> int:
    if not (pod.get("spec") or {}).get("nodeName"):
        return 0
    limits = [(one.get("resources") or {}).get("limits") or {} for one in pod["spec"]["containers"]]
    return sum(int(each.get(gpu, 0)) for each in limits)


def _matches(node: Json, selector: Mapping[str, str]) -> bool:
    return selector.items() <= (node["metadata"].get("labels") or {}).items()


def _labels(selector: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
