"""Where a run on one machine keeps the snapshots of its weights: in memory where there is room, else in its folder.

A snapshot is for the run's engines, and for as long as it is the newest: nothing reads one after a crash, since the
next incarnation writes a new one from the checkpoint. So /dev/shm does, and no step waits for a disk.

Invariants: the folder is its owner's alone; it goes when the run ends; where the run was killed, the next run of the
same user removes it. The kernel tells the two apart: who runs holds a lock on the folder, which ends with its process.
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
"""Most that lie there at a time: the one in service, and the one before it or the next one."""
MARGIN = 1 << 30
"""Bytes of /dev/shm that are left to others: Ray's object store (256 MiB), vLLM, NCCL, whoever else."""
PART = 4
"""The snapshots take at most this part of the memory that is free before trainers and engines are there."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes that are free."""

    shared: int
    """On /dev/shm; 0 where there is none."""
    memory: int
    """Altogether; what lies on /dev/shm is taken from it."""


def snapshot_bytes(model: Path, *, device: str) -> int:
    """Size of a snapshot of the model for engines on this device: bfloat16 on GPUs, else float32."""
    return sum(math.prod(shape) for shape in folder_keys(model).values()) * (2 if device == "cuda" else 4)


def why_on_disk(size: int, room: Room) -> str | None:
    """Why snapshots of `size` bytes do not lie in memory; None: they may."""
    need = SNAPSHOTS * size
    if room.shared < need + MARGIN:
        return f"/dev/shm has {_text(room.shared)} free, they and others there may need {_text(need + MARGIN)}"
    if room.memory < PART * need:
        return f"they need {_text(need)} of memory, and may take a quarter of the {_text(room.memory)} that are free"
    return None


@contextmanager
def snapshot_folder(
    run: RunDir, *, uid: str, model: Path, device: str, say: Callable[[str], None], shared: Path = SHARED
) -> Iterator[Path]:
    """The folder for as long as the run goes on; `say` is told where it is."""
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
        say(f"snapshots of the weights lie in {run.weights}: {why}")
        yield run.weights
        return
    say(f"snapshots of the weights lie in memory: {folder}, {_text(SNAPSHOTS * size)} at most")
    try:
        prune_snapshots(run.weights, keep=())  # of an earlier life that had them there
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
    """Make the folder and lock it. OSError: somebody else has it, or it cannot be made."""
    folder.mkdir(mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), os.stat(folder)):
            raise FileExistsError(f"{folder} was replaced by somebody")
    except OSError:  # swept in this moment, as one that nobody holds
        os.close(handle)
        raise
    return handle


def _sweep(shared: Path) -> None:
    """Remove what runs of this user left that are not there any more."""
    for folder in shared.glob(f"{PREFIX}*"):
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: somebody runs it
                    shutil.rmtree(folder)
            finally:
                os.close(handle)
