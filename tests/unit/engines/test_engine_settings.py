"""What a training's engines are started with, by what the driver is told and what the training says."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from toolorchestra.api.load import load
from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra.contract.driver_config import DriverConfig, GpuMemory
from toolorchestra.controller.incarnation.engines import engine_config
from toolorchestra.controller.incarnation.trainers import trainer_config
from toolorchestra.engines.arguments import engine_arguments
from toolorchestra.gpus.devices import GIB
from toolorchestra.gpus.placement import Placement
from toolorchestra.sizing import division as gpu_memory
from toolorchestra.sizing.division import MemoryRefused, divide, layout_of
from toolorchestra.sizing.memory import memory_plan
from toolorchestra.sizing.model_shape import QWEN3

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


def test_a_model_that_vllm_cannot_split_so_is_refused_by_field() -> None:
    three = Placement(shared=False, trainers=1, engines=1, tensor_parallel=3)
    with pytest.raises(MemoryRefused, match=r"^spec\.ray\.engines\.tensorParallelSize is 3, .*use one of 1, 2, 4$"):
        divide(spec(), DEMO / "base", three, gpu_bytes=80 * GIB)


def test_the_plan_knows_what_the_training_asks_for() -> None:
    plain, one = spec(), Placement(shared=False, trainers=2, engines=3, tensor_parallel=4)
    layout = layout_of(plain, one, gpu_bytes=5)
    assert (layout.trainers, layout.engines, layout.tensor_parallel, layout.shared) == (2, 3, 4, False)
    assert (layout.max_model_len, layout.tokens_per_micro_batch, layout.max_num_seqs) == (932, 8192, 256)
    assert (layout.reference, layout.entropy) == (True, False)
    algorithm = plain.algorithm
    kl = algorithm.kl.model_copy(update={"coefficient": Decimal(0)})
    algorithm = algorithm.model_copy(update={"entropy_coefficient": Decimal("0.01"), "kl": kl})
    other = layout_of(plain.model_copy(update={"algorithm": algorithm}), one, gpu_bytes=5)
    assert (other.reference, other.entropy) == (False, True)


def test_the_plan_counts_on_fused_kernels_only_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Placement(shared=True, trainers=1, engines=1)

    def activations(*, fused: bool) -> str:
        monkeypatch.setattr(gpu_memory, "fused_kernels", lambda: fused)
        lines = divide(spec(), DEMO / "base", together, gpu_bytes=80 * GIB).lines
        return next(line for line in lines if "activations" in line)

    assert activations(fused=True) != activations(fused=False)


def test_engines_of_larger_models_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Placement(shared=True, trainers=1, engines=1)
    monkeypatch.setattr(gpu_memory, "shape_of", lambda folder: QWEN3["0.6B"])
    assert not divide(spec(), DEMO / "base", together, gpu_bytes=80 * GIB).memory.eager


def test_a_head_in_float32_is_one_on_both_sides_and_in_the_plan(tmp_path: Path) -> None:
    plain = spec()
    wide = plain.model_copy(update={"model": plain.model.model_copy(update={"head_precision": "Float32"})})
    together, driver = Placement(shared=True, trainers=1, engines=1), told(tmp_path, device="cuda")

    def arguments(wanted: OrchestratorTrainingSpec) -> list[str]:
        return engine_arguments(engine_config(driver, wanted, memory=GpuMemory(), start_seconds=1.0), port=1, base={})

    more = [one for one in arguments(wide) if one not in arguments(plain)]
    assert more == ["--hf-overrides", '{"head_dtype": "float32"}']
    (narrow, broad) = (trainer_config(driver, wanted, memory=GpuMemory()) for wanted in (plain, wide))
    assert (narrow.head_float32, broad.head_float32) == (False, True)
    layouts = [layout_of(wanted, together, gpu_bytes=80 * GIB) for wanted in (plain, wide)]
    peaks = [memory_plan(QWEN3["1.7B"], layout).trainer_peak for layout in layouts]
    assert peaks[1] - peaks[0] == 4 * QWEN3["1.7B"].vocabulary * QWEN3["1.7B"].hidden


def test_engines_on_cpus_are_as_they_were(tmp_path: Path) -> None:
    engine = engine_config(told(tmp_path, threads=2), spec(), memory=GpuMemory(), start_seconds=1800.0)
    assert (engine.device, engine.dtype, engine.threads, engine.max_num_seqs) == ("cpu", "float32", 2, 128)
    assert engine.kv_cache_bytes is None
