"""What the driver asks Ray and its nodes of GPUs, with answers made up. With a real Ray: test_real_rooms.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolorchestra.gpus import rooms
from toolorchestra.gpus.devices import GIB, Gpu

LARGE, MIXED, LOST, HEAD = "0a", "0b", "0c", "0d"
"""Ray's names of nodes are 28 bytes."""


def node(name: str, *, gpus: int = 1, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name * 28, "Alive": alive, "Resources": {"GPU": float(gpus)} if gpus else {}}


class Nodes:
    """A Ray whose nodes have these GPUs."""

    def __init__(self, nodes: list[dict[str, Any]], sizes: dict[str, list[int]]) -> None:
        self.known, self.sizes = nodes, sizes
        self.asked: list[dict[str, Any]] = []

    def nodes(self) -> list[dict[str, Any]]:
        return self.known

    def remote(self, ask: Any) -> Any:
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda: self._answer(options)))

    def _answer(self, options: dict[str, Any]) -> tuple[Gpu, ...]:
        self.asked.append(options)
        sizes = self.sizes[options["scheduling_strategy"].node_id[:2]]
        return tuple(Gpu(i, f"GPU-{i}", "X", size * GIB) for i, size in enumerate(sizes))

    def get(self, answers: list[tuple[Gpu, ...]]) -> list[tuple[Gpu, ...]]:
        return answers


def test_it_is_planned_with_the_smallest_gpu_of_all_nodes_that_live(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node(LARGE), node(MIXED), node(LOST, alive=False), node(HEAD, gpus=0)]
    ray = Nodes(nodes, {LARGE: [141], MIXED: [80, 40], LOST: [8], HEAD: [4]})
    monkeypatch.setattr(rooms, "ray", ray)
    smallest = rooms.smallest_gpu()
    assert smallest is not None
    assert smallest.size == 40 * GIB
    assert [one["scheduling_strategy"].node_id[:2] for one in ray.asked] == [LARGE, MIXED]
    assert {(one["num_gpus"], one["scheduling_strategy"].soft) for one in ray.asked} == {(0, False)}
    monkeypatch.setattr(rooms, "ray", Nodes([node(HEAD, gpus=0)], {}))
    assert rooms.smallest_gpu() is None


def test_a_node_tells_of_gpus_that_ray_hides_from_the_one_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho '0, GPU-a, 81559, [N/A], H100'\n")
    command.chmod(0o755)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [gpu.uuid for gpu in rooms._gpus_here()] == ["GPU-a"]


def test_where_the_driver_lists_none_torch_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of GPUs, and other makers'."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "torch.py").write_text(
        "import os, types\n"
        "part = types.SimpleNamespace(name='H100 MIG 1g.10gb', total_memory=10 << 30)\n"
        "there = 'CUDA_VISIBLE_DEVICES' not in os.environ\n"
        "cuda = types.SimpleNamespace(device_count=lambda: int(there), get_device_properties=lambda i: part)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert [(gpu.name, gpu.size) for gpu in rooms._gpus_here()] == [("H100 MIG 1g.10gb", 10 * GIB)]
    (tmp_path / "torch.py").write_text("raise ImportError")
    assert rooms._gpus_here() == ()


@pytest.mark.parametrize(
    ("by_role", "room"),
    [(False, {"CPU": 2, "GPU": 1}), (True, {"CPU": 2, "GPU": 1, "trainer": 1, "engine": 1})],
)
def test_a_room_has_one_gpu_and_what_a_trainer_and_an_engine_ask_for(
    by_role: bool, room: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ValueError(name)

    monkeypatch.setattr(rooms, "get_placement_group", missing)
    monkeypatch.setattr(rooms, "placement_group", lambda bundles, **options: (bundles, options))
    made: Any = rooms.rooms(2, by_role=by_role)
    bundles, options = made
    assert bundles == [room, room]
    assert options["lifetime"] == "detached", "engines outlive a killed controller in it"
