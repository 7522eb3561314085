"""Where a run's snapshots lie: in memory where it began there, on disk from the moment on that memory has no room."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from toolorchestra.weights.snapshot import NoRoom, Snapshot, prune_snapshots


@dataclass
class SnapshotPlace:
    """`disk`: the run's own folder; `memory`: one on /dev/shm, which others fill too; `moved` hears why it was left."""

    disk: Path
    memory: Path | None
    moved: Callable[[str], None]
    _left: bool = False

    async def write(
        self, version: str, *, keep: Iterable[str], snapshot: Callable[[Path], Awaitable[Snapshot]]
    ) -> Snapshot:
        """`snapshot` writes the version into a folder. Removes all others but those to keep first, so that there are
        never more than two. NoRoom: there is none on disk."""
        keep = tuple(keep)
        for folder in filter(None, (self.disk, self.memory)):
            prune_snapshots(folder, keep=keep)
        if self.memory is not None and not self._left:
            try:
                return await snapshot(self.memory / version)
            except NoRoom as error:
                self._left = True
                self.moved(f"{error}; from now on snapshots of the weights lie in {self.disk}")
        return await snapshot(self.disk / version)
