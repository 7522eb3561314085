"""Lists the GPUs that this process may use, from NVIDIA's driver. No torch, so that the command line can use it.

It uses `pynvml` (package nvidia-ml-py) if installed, else `nvidia-smi`. Both number GPUs in PCI bus order. CUDA does
the same if `CUDA_DEVICE_ORDER` says so (`ORDER`); all our processes get that variable.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

MIB: Final = 2**20
GIB: Final = 2**30
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=index,uuid,memory.total,mig.mode.current,name",
    "--format=csv,noheader,nounits",
)
SPLIT: Final = "Enabled"
"""Value of the MIG mode of a GPU that is split into parts. A GPU without the mode shows [N/A]."""
QUERY_SECONDS: Final = 60.0
"""Time limit: a driver that is not loaded takes seconds to start."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. `index` is its number on the machine, `size` its whole memory in bytes."""

    index: int
    uuid: str
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}, {self.size / GIB:.1f} GiB"


def visible_gpus(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that a program with this environment sees, in CUDA's order. Empty: no GPU, or no driver."""
    found = _by_nvml()
    return seen(_by_command() if found is None else found, environment.get(VISIBLE))


def seen(gpus: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that `CUDA_VISIBLE_DEVICES` names, by index or by a UUID or its prefix. None: all GPUs.

    As in CUDA, an invalid name ends the list. Parts of GPUs (MIG-…) are not supported and end it too.
    """
    if visible is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for name in visible.split(","):
        gpu = next((gpu for gpu in gpus if _is_called(gpu, name.strip())), None)
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    return tuple(chosen)


def _is_called(gpu: Gpu, name: str) -> bool:
    return str(gpu.index) == name or (name.startswith("GPU-") and gpu.uuid.startswith(name))


def parse(text: str) -> Iterator[Gpu]:
    """Yield the GPUs in the output of `QUERY`.

    Skips unreadable lines and GPUs that are split into parts (MIG): a process gets only a part, with less memory."""
    for line in text.splitlines():
        index, _, rest = line.partition(",")
        uuid, _, rest = rest.partition(",")
        size, _, rest = rest.partition(",")
        split, _, name = rest.partition(",")
        if index.strip().isdecimal() and size.strip().isdecimal() and int(size) and split.strip() != SPLIT:
            yield Gpu(int(index), uuid.strip(), name.strip(), int(size) * MIB)


def _by_command() -> tuple[Gpu, ...]:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(QUERY, capture_output=True, check=True, timeout=QUERY_SECONDS)
        return tuple(parse(done.stdout.decode(errors="replace")))
    return ()


def _by_nvml() -> tuple[Gpu, ...] | None:
    """Return the GPUs that pynvml lists. None: pynvml is not installed, or finds no driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # its error classes cannot be named without importing it
        return None
    try:
        handles = enumerate(nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount()))
        return tuple(
            Gpu(
                i,
                _text(nvml.nvmlDeviceGetUUID(handle)),
                _text(nvml.nvmlDeviceGetName(handle)),
                int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for i, handle in handles
            if not _is_split(nvml, handle)
        )
    except Exception:  # as above; nvidia-smi may know more
        return None
    finally:
        nvml.nvmlShutdown()


def _is_split(nvml: Any, handle: Any) -> bool:
    """Return whether a GPU's MIG mode is on. Many GPUs, and old versions of pynvml, do not know the mode."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except Exception:  # as above
        return False


def _text(found: str | bytes) -> str:
    """Return a text: older versions of pynvml return bytes."""
    return found.decode() if isinstance(found, bytes) else found
