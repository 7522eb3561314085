"""Configuration of a driver, written by the supervisor on one machine or by the operator on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class GpuMemory(BaseModel):
    """How GPU memory is divided between trainers and engines, as planned by memory.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gradient_checkpointing: bool = False
    """Whether trainers use gradient checkpointing."""
    keep_compute_weights: bool | None = None
    """Whether trainers keep the compute weights during a step; None: decided by the size of their GPU."""
    gpu_memory_utilization: float = 0.9
    """An engine's share of a whole GPU, from 0 to 1."""
    kv_cache_bytes: int | None = None
    """Bytes of KV cache on one GPU of an engine; None: vLLM uses the rest of its share."""
    eager: bool = False
    """Whether engines run without compiled code and CUDA graphs."""


class DriverConfig(BaseModel):
    """Configuration of one driver. `resources` are the resolved YAML files: one training and its pools.

    Fields that a newer operator or supervisor adds are ignored: images are upgraded after it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    uid: str
    run: Path
    nats_url: str
    ray_address: str
    resources: tuple[Path, ...]
    model_dir: Path
    volumes: dict[str, Path] = Field(default_factory=dict)
    device: Literal["cpu", "cuda"] = "cpu"
    shared: bool = False
    """Whether each GPU has a trainer and an engine."""
    memory: GpuMemory | None = None
    """Division of GPU memory. None with CUDA: the driver asks a node for its GPU memory, and plans."""
    snapshots: Path | None = None
    """Folder of weight snapshots, if trainers and engines share a machine; None: in the run's folder."""
    cluster: bool = False
    """Whether trainers and engines run on their own Ray nodes (`--resources` trainer, engine). Engines then listen on
    their node's address."""
    attempt: int = 1
    """Number of the training's Ray cluster, from 1; the progress repeats it."""
    threads: int = 1
    """Torch threads of each trainer and OpenMP threads of each engine."""

    def told(self) -> str:
        """Return the configuration as JSON, without fields that were not set."""
        return self.model_dump_json(indent=1, exclude_unset=True)

    def write(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> DriverConfig:
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
