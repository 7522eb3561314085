"""What a run computes on, and what is said of it at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolorchestra.api.load import load
from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra.gpus.devices import GIB, Gpu
from toolorchestra.gpus.placement import Placement, PlacementError
from toolorchestra.local.compute import Compute, DeviceError, compute_of, device_of
from toolorchestra.sizing.division import MemoryRefused

DEMO = Path(__file__).parents[3] / "examples" / "demo"
H100 = Gpu(0, "GPU-a", "NVIDIA H100 80GB HBM3", 80 * GIB)
SECOND = Gpu(1, "GPU-b", "NVIDIA H100 80GB HBM3", 80 * GIB)


@pytest.fixture(scope="module")
def spec() -> OrchestratorTrainingSpec:
    return load(DEMO / "training.yaml", resolve=False).trainings[0].spec


def test_the_only_gpu_is_shared_and_the_start_says_how_its_memory_is_divided(spec: OrchestratorTrainingSpec) -> None:
    found = compute_of(spec, DEMO / "base", wanted="auto", gpus=[H100], engine_refuses=None)
    assert (found.device, found.shared) == ("cuda", True)
    assert found.lines[0] == "1 GPU: NVIDIA H100 80GB HBM3, 80.0 GiB; trainer and engine share it"
    assert any("engine: keys and values" in line for line in found.lines)
    assert found.memory is not None
    assert found.memory.kv_cache_bytes is not None, "what the trainer takes meanwhile must not count as the engine's"
    assert found.memory.gpu_memory_utilization < 0.1
    assert found.memory.eager, "a tiny model's run is over before graphs pay off"
    assert found.environment() == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0"}


def test_on_two_gpus_each_has_its_own_and_further_ones_are_said_to_be_idle(spec: OrchestratorTrainingSpec) -> None:
    third = Gpu(2, "GPU-c", "NVIDIA L4", 23 * GIB)
    found = compute_of(spec, DEMO / "base", wanted="cuda", gpus=[SECOND, H100, third], engine_refuses=None)
    assert not found.shared
    assert found.lines[0] == "2 GPUs: NVIDIA H100 80GB HBM3, 80.0 GiB; 1 trainer, 1 engine"
    assert found.lines[1].startswith("1 of the 3 GPUs here stay idle: raise spec.ray.trainers.replicas")
    assert found.environment()["CUDA_VISIBLE_DEVICES"] == "1,0"
    assert found.memory is not None
    assert (found.memory.kv_cache_bytes, found.memory.gpu_memory_utilization) == (None, 0.9)


def test_the_smallest_of_the_gpus_in_use_is_planned_with(spec: OrchestratorTrainingSpec) -> None:
    small = Gpu(1, "GPU-b", "NVIDIA L4", 23 * GIB)
    for gpus in ([H100, small], [small, H100]):
        found = compute_of(spec, DEMO / "base", wanted="auto", gpus=gpus, engine_refuses=None)
        totals = [line for line in found.lines if "(1 GPU): " in line]
        assert len(totals) == 2
        assert all(line.endswith(" of 23.0 GiB") for line in totals)


def test_idle_gpus_of_a_shared_run_want_both_numbers_raised(spec: OrchestratorTrainingSpec) -> None:
    shared = spec.model_copy(update={"ray": spec.ray.model_copy(update={"placement": "Shared"})})
    found = compute_of(shared, DEMO / "base", wanted="auto", gpus=[H100, SECOND], engine_refuses=None)
    assert found.lines[1].endswith("raise spec.ray.trainers.replicas and spec.ray.engines.replicas alike to use them")


def test_auto_computes_on_the_cpu_where_it_must_and_says_why(spec: OrchestratorTrainingSpec) -> None:
    def auto(gpus: list[Gpu], refuses: str | None) -> Compute:
        return compute_of(spec, DEMO / "base", wanted="auto", gpus=gpus, engine_refuses=refuses)

    none, cpu_build = auto([], None), auto([H100], "vLLM here is its CPU build")
    assert (none.device, none.environment()["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    (said,) = none.lines
    assert said.startswith("device: the CPU; NVIDIA's driver shows no GPU here (a GPU ")
    assert cpu_build.device == "cpu"
    (said,) = cpu_build.lines
    assert "1 GPU: NVIDIA H100" in said
    assert "make setup GPU=1" in said


def test_cuda_is_refused_in_one_line_where_there_is_none(spec: OrchestratorTrainingSpec) -> None:
    with pytest.raises(
        DeviceError, match=r"^--device cuda: NVIDIA's driver shows no GPU here .* remove --device \(.* on GPUs .*\)$"
    ):
        compute_of(spec, DEMO / "base", wanted="cuda", gpus=[], engine_refuses=None)
    with pytest.raises(DeviceError, match=r"^--device cuda: its CPU build; .*make setup GPU=1$"):
        compute_of(spec, DEMO / "base", wanted="cuda", gpus=[H100], engine_refuses="its CPU build")


@pytest.mark.parametrize("visible", ["", "0-3", "all", "MIG-1", "7"])
def test_where_the_environment_hides_the_gpus_it_is_named(spec: OrchestratorTrainingSpec, visible: str) -> None:
    found = compute_of(spec, DEMO / "base", wanted="auto", gpus=[], engine_refuses=None, visible=visible)
    (said,) = found.lines
    assert f"CUDA_VISIBLE_DEVICES is {visible!r}" in said
    with pytest.raises(DeviceError, match="use indices such as 0,1"):
        compute_of(spec, DEMO / "base", wanted="cuda", gpus=[], engine_refuses=None, visible=visible)


def test_what_does_not_fit_is_refused_before_anything_starts(spec: OrchestratorTrainingSpec) -> None:
    small = Gpu(0, "GPU-a", "NVIDIA T400", GIB)
    with pytest.raises(MemoryRefused, match=r"the GPUs' memory: .* at least .* needed"):
        compute_of(spec, DEMO / "base", wanted="auto", gpus=[small], engine_refuses=None)
    apart = spec.model_copy(update={"ray": spec.ray.model_copy(update={"placement": "Separate"})})
    with pytest.raises(PlacementError, match="this machine has 1"):
        compute_of(apart, DEMO / "base", wanted="auto", gpus=[H100], engine_refuses=None)


def test_threads() -> None:
    assert Compute().threads(cores=16) == 8, "trainer and engine compute at the same time"
    four = Compute(gpus=(H100,) * 5, placement=Placement(shared=False, trainers=4, engines=1))
    assert four.threads(cores=16) == 4
    assert four.threads(cores=2) == 1


def test_a_run_goes_on_where_it_was() -> None:
    assert device_of({"device": "cuda"}) == "cuda"
    assert device_of({"device": "cpu"}) == "cpu"
    assert device_of({}) == "cpu", "runs from before there was a choice"
