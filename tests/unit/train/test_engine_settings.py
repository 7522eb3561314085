"""What a training's engines are started with, by what the driver is told and what the training says."""

from __future__ import annotations

from pathlib import Path

from toolorchestra.api.load import load
from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra.train.driver_config import DriverConfig, GpuMemory
from toolorchestra.train.gpu_memory import divide
from toolorchestra.train.gpus import GIB
from toolorchestra.train.job import engine_config
from toolorchestra.train.placement import Placement

DEMO = Path(__file__).parents[3] / "examples" / "demo"


def spec() -> OrchestratorTrainingSpec:
    return load(DEMO / "training.yaml", resolve=False).trainings[0].spec


def told(tmp_path: Path, **more: object) -> DriverConfig:
    fields = {"uid": "u", "run": tmp_path, "nats_url": "", "ray_address": "", "resources": (), "model_dir": DEMO}
    return DriverConfig.model_validate(fields | more)


def test_a_driver_reads_back_what_it_was_told_of_the_gpus(tmp_path: Path) -> None:
    memory = GpuMemory(gradient_checkpointing=True, gpu_memory_utilization=0.4, kv_cache_bytes=1 << 30, eager=True)
    config = told(tmp_path, device="cuda", shared=True, memory=memory)
    config.write(tmp_path / "driver.json")
    assert DriverConfig.read(tmp_path / "driver.json") == config


def test_engines_on_gpus_follow_the_plan(tmp_path: Path) -> None:
    together = Placement(shared=True, trainers=1, engines=1)
    memory = divide(spec(), DEMO / "base", together, gpu_bytes=80 * GIB).memory
    engine = engine_config(told(tmp_path, device="cuda"), spec(), memory=memory, start_seconds=1868.0)
    assert (engine.device, engine.dtype, engine.start_seconds) == ("cuda", "bfloat16", 1868.0)
    assert engine.max_model_len == 932
    assert engine.kv_cache_bytes == memory.kv_cache_bytes
    assert engine.gpu_memory_utilization == memory.gpu_memory_utilization
    assert engine.eager


def test_engines_on_cpus_are_as_they_were(tmp_path: Path) -> None:
    engine = engine_config(told(tmp_path, threads=2), spec(), memory=GpuMemory(), start_seconds=1800.0)
    assert (engine.device, engine.dtype, engine.threads, engine.max_num_seqs) == ("cpu", "float32", 2, 128)
    assert engine.kv_cache_bytes is None
