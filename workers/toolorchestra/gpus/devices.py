"""The GPUs that this process may use, asked of NVIDIA's driver: no torch, so that the command line can ask too.

`pynvml` (package nvidia-ml-py) is asked where it is installed, else `nvidia-smi`. Both count GPUs by their place on the
PCI bus; CUDA does so too where `CUDA_DEVICE_ORDER` says it (`ORDER`), which every process of ours is told.
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
"""What it says of a GPU's MIG mode where that is on; of a GPU without the mode: [N/A]."""
QUERY_SECONDS: Final = 60.0
"""The driver may have to be woken first, which takes seconds where nothing keeps it awake."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. `index` is its place among all of the machine, `size` its whole memory in bytes."""

    index: int
    uuid: str
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}, {self.size / GIB:.1f} GiB"


def visible_gpus(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs that a program with this environment sees, in CUDA's order. Empty: none, or no driver."""
    found = _by_nvml()
    return seen(_by_command() if found is None else found, environment.get(VISIBLE))


def seen(gpus: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """Those that `CUDA_VISIBLE_DEVICES` names, by index or by (the beginning of) a UUID. None: all of them.

    As CUDA reads it: a name that is none ends the list. Parts of GPUs (MIG-…) are none.
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
    """Lines of `QUERY`. One that does not read is left out, and a GPU that is split into parts (MIG): its memory is not
    that of a part, which is what a process is given."""
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
    """None: there is no pynvml here, or it finds no driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # its errors are classes of its own, which cannot be named without it
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
    except Exception:  # as above: the command may tell more
        return None
    finally:
        nvml.nvmlShutdown()


def _is_split(nvml: Any, handle: Any) -> bool:
    """Whether a GPU's MIG mode is on; most do not know the mode, or their pynvml does not."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except Exception:  # as above
        return False


def _text(found: str | bytes) -> str:
    """Older versions of pynvml return bytes."""
    return found.decode() if isinstance(found, bytes) else found
