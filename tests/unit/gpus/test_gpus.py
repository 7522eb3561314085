"""Which GPUs are seen, by what NVIDIA's driver and CUDA_VISIBLE_DEVICES say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolorchestra.gpus import devices as gpus
from toolorchestra.gpus.devices import GIB, MIB, Gpu, parse, seen, visible_gpus

SAID = """\
0, GPU-aaaa1111, 81559, Disabled, NVIDIA H100 80GB HBM3
1, GPU-bbbb2222, 81559, Disabled, NVIDIA H100 80GB HBM3
2, GPU-cccc3333, [N/A], [N/A], NVIDIA H100 80GB HBM3 MIG
4, GPU-eeee5555, 81559, Enabled, NVIDIA H100 80GB HBM3
3, GPU-dddd4444, 24564, [N/A], NVIDIA GeForce RTX 4090
"""


def test_what_the_command_says_is_read_and_a_gpu_that_is_split_left_out() -> None:
    first, second, last = parse(SAID)
    assert first == Gpu(0, "GPU-aaaa1111", "NVIDIA H100 80GB HBM3", 81559 * MIB)
    assert (second.index, last.index, last.name) == (1, 3, "NVIDIA GeForce RTX 4090")
    assert str(first) == "NVIDIA H100 80GB HBM3, 79.6 GiB"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "0",
        ",,,",
        "0, GPU-a, 0, , X",
        "0, GPU-a, [N/A], , X",
        "²,GPU-a,9,,X",
        "0,GPU-a,²,,X",
    ],
)
def test_a_line_that_is_none_is_no_gpu(line: str) -> None:
    """A GPU without memory among them: its plan would divide by 0."""
    assert list(parse(f"{line}\n1, GPU-b, 81559, [N/A], H100\n")) == [Gpu(1, "GPU-b", "H100", 81559 * MIB)]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 3]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("3,0", [3, 0]),
        ("GPU-bbbb, 0", [1, 0]),
        ("0,9,1", [0]),
        ("0,0", [0]),
        ("MIG-1234", []),
        ("GPU-", [0]),
    ],
)
def test_cuda_visible_devices_chooses_and_orders(visible: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in seen(list(parse(SAID)), visible)] == indices


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without pynvml; what it returns is its `nvidia-smi`, not there yet."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def test_no_driver_is_no_gpu(command: Path) -> None:
    assert visible_gpus({}) == ()
    command.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate'\nexit 9\n")
    command.chmod(0o755)
    assert visible_gpus({}) == ()


def test_a_command_that_says_no_text_or_says_it_late_is_no_gpu(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command.write_text(r"""#!/bin/sh
printf '\377\376\000'
""")
    command.chmod(0o755)
    assert visible_gpus({}) == ()
    monkeypatch.setattr(gpus, "QUERY_SECONDS", 0.1)
    command.write_text(f"#!/bin/sh\n/bin/sleep 3\nprintf '%s' '{SAID}'\n")
    assert visible_gpus({}) == ()


def test_the_command_is_asked_where_there_is_no_pynvml(command: Path) -> None:
    command.write_text(f"#!/bin/sh\nprintf '%s' '{SAID}'\n")
    command.chmod(0o755)
    assert [gpu.index for gpu in visible_gpus({"CUDA_VISIBLE_DEVICES": "3"})] == [3]


def test_pynvml_is_asked_first(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    mode = {1: [0, 1], 2: [1, 1]}
    nvml = SimpleNamespace(
        nvmlInit=lambda: asked.append("init"),
        nvmlShutdown=lambda: asked.append("shutdown"),
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetMigMode=lambda i: mode[i],  # of the first: an error, as it does not have the mode
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetUUID=lambda i: f"GPU-{i}".encode(),
        nvmlDeviceGetName=lambda i: "NVIDIA H200",
        nvmlDeviceGetMemoryInfo=lambda i: SimpleNamespace(total=141 * GIB),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert visible_gpus({}) == (Gpu(0, "GPU-0", "NVIDIA H200", 141 * GIB), Gpu(1, "GPU-1", "NVIDIA H200", 141 * GIB))
    assert asked == ["init", "shutdown"]
