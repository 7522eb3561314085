"""The engines of an incarnation: their configuration, their start, and their state in the run's status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.contract.driver_config import DriverConfig, GpuMemory
from toolorchestra.contract.progress import State
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.hardware import Hardware
from toolorchestra.engines.actor import EngineStatus
from toolorchestra.engines.arguments import CPU_SEQUENCES, CUDA_SEQUENCES, EngineConfig
from toolorchestra.engines.fleet import Engines, engine_actor
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.runs.status import StatusWriter


def engine_config(
    config: DriverConfig, spec: OrchestratorTrainingSpec, *, memory: GpuMemory, start_seconds: float
) -> EngineConfig:
    """Return the configuration of every engine of a training."""
    cuda = config.device == "cuda"
    return EngineConfig(
        model_dir=str(config.model_dir),
        device=config.device,
        dtype="bfloat16" if cuda else "float32",
        head_float32=spec.model.head_precision == "Float32",
        max_model_len=spec.rollout.max_prompt_tokens + spec.rollout.max_response_tokens,
        max_num_seqs=CUDA_SEQUENCES if cuda else CPU_SEQUENCES,
        kv_cache_bytes=memory.kv_cache_bytes,
        gpu_memory_utilization=memory.gpu_memory_utilization,
        eager=memory.eager,
        tensor_parallel_size=spec.ray.engines.tensor_parallel_size,
        threads=config.threads,
        start_seconds=start_seconds,
    )


@dataclass(frozen=True)
class EngineNews:
    """Writes the engines' state changes into the run's events and status."""

    run: RunDir
    status: StatusWriter

    def changed(self, engine: EngineStatus) -> None:
        """Record an engine's new status."""
        known = dict(self.status.fields.get("engines", {}))
        known[engine.name] = {
            "state": engine.state,
            "version": engine.version,
            "restarts": engine.restarts,
            "serves": engine.serves,
        }
        self.status.fields["engines"] = known
        if engine.state != "ready" or engine.version is None:
            lost = engine.last_error if engine.state != "ready" else ""
            what = lost.splitlines()[0] if lost else ""
            self.run.event("engine", f"{engine.name} is {engine.state} {what}".strip(), error=engine.last_error)

    def awaited(self, why: str) -> None:
        """Show in the status why the run waits for an engine with the newest weights; "" when it no longer waits."""
        state: State = self.status.latest.get("state", "Starting")
        if state in ("Starting", "Running"):  # never overwrite the last status of an ended run
            self.status.set(state, phase=self.status.latest.get("phase"), message=why)


def start_engines(
    assignment: Assignment, hardware: Hardware, bus: RolloutBus, *, actor: Callable[..., Any] = engine_actor
) -> Engines:
    """Find or create the engines' actors; `actor(number, …)` does it for one engine."""
    config, spec = assignment.config, assignment.spec
    of_all = engine_config(config, spec, memory=hardware.memory, start_seconds=hardware.start_seconds)
    news = EngineNews(assignment.run, assignment.status)
    return Engines(
        spec.ray.engines.replicas,
        actor=partial(
            actor,
            config=of_all,
            logs=assignment.run.logs,
            gpus=hardware.gpus_per_engine,
            by_role=config.cluster,
            places=hardware.places,
        ),
        put=bus.put,
        on_change=news.changed,
        on_wait=news.awaited,
    )
