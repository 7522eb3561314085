"""Reads a safetensors file onto a device.

For a CPU, the file is memory-mapped and copied once, into the model. For a GPU, threads read blocks of the file ahead
into pinned memory, while earlier tensors are copied to the GPU.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open
from torch import Tensor

from toolorchestra.weights.block_digest import BLOCK, read_whole, threads
from toolorchestra.weights.snapshot import SnapshotError, read_entries
from toolorchestra.weights.writer import DTYPES, empty_block

TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


def read_tensors(path: Path, *, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and tensor of everything in the file, in order. SnapshotError, OSError, EOFError on failure."""
    return mapped_tensors(path) if device.type == "cpu" else staged_tensors(path, device=device)


def mapped_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors as parts of the memory-mapped file."""
    names = read_entries(path)
    with safe_open(path, framework="pt") as file:
        for name in names:
            yield name, file.get_tensor(name)


def staged_tensors(path: Path, *, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors that are read through blocks of host memory."""
    entries = read_entries(path)
    if strange := {entry.dtype for entry in entries.values()} - TORCH_DTYPES.keys():
        raise SnapshotError(f"{path} has dtypes {', '.join(sorted(strange))}; use {', '.join(TORCH_DTYPES)}")
    start = min((entry.begin for entry in entries.values()), default=0)
    with path.open("rb", buffering=0) as file, BlockReader(file.fileno(), start=start, device=device) as reader:
        for name, entry in entries.items():
            whole = torch.empty(entry.end - entry.begin, dtype=torch.uint8, device=device)
            reader.fill(whole)
            yield name, whole.view(TORCH_DTYPES[entry.dtype]).view(entry.shape)


class BlockReader:
    """Reads a file's bytes from `start` on, in order, for a device (see the module). A context manager with threads."""

    def __init__(self, handle: int, *, start: int, device: torch.device) -> None:
        self._handle, self._next, self._end = handle, start, os.fstat(handle).st_size
        self._device, self._pinned = device, device.type == "cuda"
        self._pool = ThreadPoolExecutor(threads(), thread_name_prefix="snapshot")
        self._ahead: deque[tuple[Tensor, int, Future[None]]] = deque()
        """Blocks that are being read, in file order: block, number of bytes, and the future that completes then."""
        for _ in range(threads() + 1):
            self._read_ahead(empty_block(pinned=self._pinned))
        self._block = self._rest = empty_block(0)
        """The current block, and the part of it that was not taken yet."""

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def fill(self, into: Tensor) -> None:
        """Copy the next bytes into a flat uint8 tensor on the device."""
        while into.numel():
            if not self._rest.numel():
                self._advance()
            part = self._rest[: into.numel()]
            into[: part.numel()].copy_(part, non_blocking=self._pinned)
            into, self._rest = into[part.numel() :], self._rest[part.numel() :]

    def _advance(self) -> None:
        """Reuse the current block for reading, after its bytes have reached the device, and take the next block."""
        if self._block.numel():
            copied = torch.cuda.current_stream(self._device).record_event() if self._pinned else None
            self._read_ahead(self._block, copied)
        if not self._ahead:
            raise EOFError("the file ends before its last tensor does")
        self._block, size, there = self._ahead.popleft()
        there.result()
        self._rest = self._block[:size]

    def _read_ahead(self, block: Tensor, copied: torch.cuda.Event | None = None) -> None:
        size = min(BLOCK, self._end - self._next)
        if size > 0:
            there = self._pool.submit(self._read, block.numpy().data[:size], self._next, copied)
            self._ahead.append((block, size, there))
            self._next += size

    def _read(self, into: memoryview, start: int, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            copied.synchronize()
        read_whole(self._handle, into, start)
