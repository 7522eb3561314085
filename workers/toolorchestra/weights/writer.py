"""Writes a snapshot in one pass: tensors are gathered, copied, hashed and written at the same time.

The caller's thread copies one tensor after the other into blocks of the file (from a GPU: to pinned memory, without
waiting). A thread pool hashes and writes the blocks. So the model is never in memory a second time, and the file is not
read again for its digest. Blocks are written with pwrite: on a full file system that is an error; with a memory-mapped
file it would be a SIGBUS.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from types import TracebackType

import torch
from torch import Tensor

from toolorchestra.weights.block_digest import BLOCK, join, threads, write_whole
from toolorchestra.weights.snapshot import MANIFEST, WEIGHTS, KeySet, NoRoom, Snapshot, SnapshotError, mark_of

FULL = (errno.ENOSPC, errno.EDQUOT)
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Torch dtypes → safetensors' names."""


def file_header(keys: KeySet, *, dtype: torch.dtype, version: str) -> bytes:
    """Return the beginning of a safetensors file: the length of its header (u64, little-endian), and the header (JSON).

    Spaces at its end align the tensors to 8 bytes. Source: safetensors' README, "Format".
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt", "version": version}}
    end = 0
    for name, shape in keys.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def empty_block(size: int = BLOCK, *, pinned: bool = False) -> Tensor:
    """Return host memory for a block, whatever torch's default device is. Pinned: a GPU copies without waiting."""
    return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)


class BlockWriter:
    """Takes a file's bytes in order, as tensors on any device (see the module). A context manager, for its threads."""

    def __init__(self, handle: int, *, pinned: bool) -> None:
        self._handle, self._pinned = handle, pinned
        self._pool = ThreadPoolExecutor(threads(), thread_name_prefix="snapshot")
        self._free: SimpleQueue[Tensor] = SimpleQueue()
        for _ in range(threads() + 1):
            self._free.put(empty_block(pinned=pinned))
        self._writing = Lock()
        """The kernel lets one thread at a time write to a file. Without the lock, waiting threads could not hash."""
        self._hashes: list[Future[bytes]] = []
        self._block, self._filled = self._free.get(), 0

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def write(self, data: Tensor) -> None:
        """Write the next bytes, a flat uint8 tensor."""
        while data.numel():
            part = data[: BLOCK - self._filled]
            place = self._block[self._filled : self._filled + part.numel()]
            if self._pinned:
                place.copy_(part, non_blocking=True)
            else:
                place.numpy()[:] = part.numpy()  # a copy by torch would wake its threads for every block
            self._filled += part.numel()
            data = data[part.numel() :]
            if self._filled == BLOCK:
                self._send()

    def finish(self) -> str:
        """Return the digest after everything is written. OSError if a write failed."""
        if self._filled:
            self._send()
        return join(future.result() for future in self._hashes)

    def _send(self) -> None:
        """Give the block to the pool and take an empty one. With a slow disk, this waits."""
        copied = torch.cuda.current_stream().record_event() if self._pinned else None
        start = len(self._hashes) * BLOCK
        self._hashes.append(self._pool.submit(self._store, self._block, self._filled, start, copied))
        self._block, self._filled = self._free.get(), 0

    def _store(self, block: Tensor, filled: int, start: int, copied: torch.cuda.Event | None) -> bytes:
        try:
            if copied is not None:
                copied.synchronize()
            content = block.numpy().data[:filled]
            with self._writing:
                write_whole(self._handle, content, start)
            return hashlib.sha256(content).digest()
        finally:
            self._free.put(block)


def write_snapshot(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    version: str,
    keys: KeySet,
    dtype: torch.dtype,
    pinned: bool = False,
) -> Snapshot:
    """Write whole tensors, in the order of `keys`, as the snapshot `folder` of `version`.

    Replaces a snapshot of that name. Tensors of another dtype are cast on their device. `pinned`: they are on a GPU.
    SnapshotError if they are not exactly the keys. OSError if they cannot be written; NoRoom if the disk is full.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    for leftover in (partial, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        return _write(folder, partial, tensors, version=version, keys=keys, dtype=dtype, pinned=pinned)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)  # on a full /dev/shm it would keep space that others need
        if error.errno in FULL:
            size = sum(math.prod(shape) for shape in keys.values()) * dtype.itemsize
            raise NoRoom(error.errno, f"no room for a snapshot of {size:,} bytes", str(folder.parent)) from error
        raise


def _write(
    folder: Path,
    partial: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    version: str,
    keys: KeySet,
    dtype: torch.dtype,
    pinned: bool,
) -> Snapshot:
    with (partial / WEIGHTS).open("xb", buffering=0) as file, BlockWriter(file.fileno(), pinned=pinned) as writer:
        header = file_header(keys, dtype=dtype, version=version)
        writer.write(torch.frombuffer(bytearray(header), dtype=torch.uint8))
        wanted = iter(keys.items())
        for name, tensor in tensors:
            if (name, tuple(tensor.shape)) != next(wanted, None):
                raise SnapshotError(f"{name} {list(tensor.shape)} is not the next tensor in the header of {version}")
            writer.write(tensor.detach().to(dtype).contiguous().reshape(-1).view(torch.uint8))
        if (missing := next(wanted, None)) is not None:
            raise SnapshotError(f"{missing[0]} is missing from the snapshot of {version}")
        digest = writer.finish()
    snapshot = Snapshot(path=str(folder), version=version, digest=digest, mark=mark_of(partial / WEIGHTS))
    (partial / MANIFEST).write_text(json.dumps({"version": version, "digest": digest, "mark": snapshot.mark}))
    os.replace(partial, folder)
    return snapshot
