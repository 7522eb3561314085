"""What a driver is told by whoever starts it: the supervisor on one machine, the operator on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class GpuMemory(BaseModel):
    """How the memory of the GPUs is divided: what the plan (memory.py) found, as trainers and engines are told it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gradient_checkpointing: bool = False
    """Of the trainers."""
    keep_compute_weights: bool | None = None
    """Of the trainers, through a step; None: as their GPU's size suggests."""
    gpu_memory_utilization: float = 0.9
    """The engine's share of a whole GPU."""
    kv_cache_bytes: int | None = None
    """Of one GPU of an engine; None: vLLM takes what its share leaves it."""
    eager: bool = False
    """Engines without compiled code and CUDA graphs."""


class DriverConfig(BaseModel):
    """`resources` are the resolved YAML files: one training and its pools.

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
    """A trainer and an engine on each GPU."""
    memory: GpuMemory | None = None
    """Of the GPUs; None with CUDA: the driver asks a node how much there is, and plans."""
    snapshots: Path | None = None
    """Where the snapshots of the weights lie, where trainers and engines share a machine; None: in the run's folder."""
    cluster: bool = False
    """Trainers and engines run on the Ray nodes made for them (`--resources` trainer, engine), and engines listen on
    their node's address."""
    attempt: int = 1
    """Which cluster this is of the training's, from 1; told back in the progress."""
    threads: int = 1
    """Torch threads of each trainer and OpenMP threads of each engine."""

    def told(self) -> str:
        """As JSON, without what nobody set."""
        return self.model_dump_json(indent=1, exclude_unset=True)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> DriverConfig:
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
