"""The engines of an incarnation: what they are started with, and what the run says of them."""

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
    """Of every engine of a training."""
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
    """What becomes of the engines, in the run's events and its status."""

    run: RunDir
    status: StatusWriter

    def changed(self, engine: EngineStatus) -> None:
        """An engine has a new status."""
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
        """No engine serves the newest weights, or one does again (no words)."""
        state: State = self.status.latest.get("state", "Starting")
        if state in ("Starting", "Running"):  # what a run that ended said last stands
            self.status.set(state, phase=self.status.latest.get("phase"), message=why)


def start_engines(
    assignment: Assignment, hardware: Hardware, bus: RolloutBus, *, actor: Callable[..., Any] = engine_actor
) -> Engines:
    """Find or make their actors; `actor(number, …)` is what does it for one."""
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
