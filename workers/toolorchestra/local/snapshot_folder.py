"""Chooses the folder for weight snapshots of a run on one machine: in memory if it fits, else in the run's folder.

Only the run's engines read a snapshot, and only while it is the newest. Nothing reads one after a crash, because the
next incarnation writes a new one from the checkpoint. Therefore /dev/shm is good enough, and no step waits for a disk.

Invariants: only its owner can use the folder. It is removed when the run ends; after a kill, the next run of the same
user removes it. A running run holds a lock on its folder, which the kernel releases when the process ends.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from toolorchestra.local.free_memory import free_memory
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.weights.snapshot import SnapshotError, folder_keys, prune_snapshots

SHARED = Path("/dev/shm")
PREFIX = "toolorchestra-snapshots-"
SNAPSHOTS = 2
"""Most snapshots at the same time: the one in service, and the previous or the next one."""
MARGIN = 1 << 30
"""Bytes of /dev/shm that must stay free for others: Ray's object store (256 MiB), vLLM, NCCL and other programs."""
PART = 4
"""The snapshots use at most 1/PART of the memory that is free before trainers and engines start."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Free memory in bytes."""

    shared: int
    """Free bytes on /dev/shm; 0 where it does not exist."""
    memory: int
    """Free bytes of the machine's or container's memory; files on /dev/shm use it too."""


def snapshot_bytes(model: Path, *, device: str) -> int:
    """Return the bytes of one snapshot of the model for engines on this device: bfloat16 on GPUs, else float32."""
    return sum(math.prod(shape) for shape in folder_keys(model).values()) * (2 if device == "cuda" else 4)


def why_on_disk(size: int, room: Room) -> str | None:
    """Return why snapshots of `size` bytes cannot be in memory; None where they can."""
    need = SNAPSHOTS * size
    if room.shared < need + MARGIN:
        return f"/dev/shm has {_text(room.shared)} free, but they and other programs may need {_text(need + MARGIN)}"
    if room.memory < PART * need:
        return f"they need {_text(need)} of memory, more than a quarter of the {_text(room.memory)} that are free"
    return None


@contextmanager
def snapshot_folder(
    run: RunDir, *, uid: str, model: Path, device: str, say: Callable[[str], None], shared: Path = SHARED
) -> Iterator[Path]:
    """Yield the folder for snapshots, and remove it at the end; `say` gets a message with the place."""
    _sweep(shared)
    folder, handle = shared / f"{PREFIX}{uid}", -1
    try:
        size = snapshot_bytes(model, device=device)
        why = why_on_disk(size, _room(shared))
        if why is None:
            handle = _claim(folder)
    except (OSError, SnapshotError, ValueError) as error:
        why = str(error)
    if why is not None:
        say(f"snapshots of the weights are in {run.weights}: {why}")
        yield run.weights
        return
    say(f"snapshots of the weights are in memory: {folder}, {_text(SNAPSHOTS * size)} at most")
    try:
        prune_snapshots(run.weights, keep=())  # left by an earlier start that wrote them there
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _text(size: int) -> str:
    return f"{size / (1 << 30):.3g} GiB"


def _room(shared: Path) -> Room:
    try:
        stat = os.statvfs(shared)
    except OSError:
        return Room(shared=0, memory=0)
    return Room(shared=stat.f_bavail * stat.f_frsize, memory=free_memory())


def _claim(folder: Path) -> int:
    """Create the folder and lock it. OSError: another process has it, or it cannot be created."""
    folder.mkdir(mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), os.stat(folder)):
            raise FileExistsError(f"another process replaced {folder}")
    except OSError:  # another run's _sweep may have removed the folder before it was locked
        os.close(handle)
        raise
    return handle


def _sweep(shared: Path) -> None:
    """Remove the folders of this user's runs that no longer run."""
    for folder in shared.glob(f"{PREFIX}*"):
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: its run is running
                    shutil.rmtree(folder)
            finally:
                os.close(handle)
