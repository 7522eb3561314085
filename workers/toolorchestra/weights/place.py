"""The location of a run's snapshots: in memory, if the run began there, until memory has no room; then on disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from toolorchestra.weights.snapshot import NoRoom, Snapshot, prune_snapshots


@dataclass
class SnapshotPlace:
    """The folders for snapshots. `disk`: the run's own folder. `memory`: a folder on /dev/shm, which other processes
    also fill. `moved` is called with the reason for the move to disk."""

    disk: Path
    memory: Path | None
    moved: Callable[[str], None]
    _memory_full: bool = False

    async def write(
        self, version: str, *, keep: Iterable[str], snapshot: Callable[[Path], Awaitable[Snapshot]]
    ) -> Snapshot:
        """Write a version: `snapshot` writes it into a folder.

        All snapshots except those to keep are removed first, so that there are never more than two. NoRoom if the disk
        is full."""
        keep = tuple(keep)
        for folder in filter(None, (self.disk, self.memory)):
            prune_snapshots(folder, keep=keep)
        if self.memory is not None and not self._memory_full:
            try:
                return await snapshot(self.memory / version)
            except NoRoom as error:
                self._memory_full = True
                self.moved(f"{error}; from now on, snapshots of the weights are written to {self.disk}")
        return await snapshot(self.disk / version)
