"""Who drives a run: a file in storage per Ray cluster, so that never two drivers write to one run.

KubeRay may start a driver a second time (its head was lost: the cluster is a torn one), and may bring a new cluster up
while the old one's pods are still writing their last checkpoint. Invariants: a cluster drives once; whoever drives next
waits until the claims of all others are ended, or were not renewed for a while. No clocks are compared.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

BEAT_SECONDS = 5.0
QUIET_SECONDS = 30.0
"""A claim that was not renewed for so long is of a driver that is gone: several beats, and a slow file system."""
POLL_SECONDS = 1.0
_ENDED = "ended"


@dataclass
class Claim:
    """Of the Ray cluster `holder` on the run whose claims are in `folder`."""

    folder: Path
    holder: str
    beat_seconds: float = BEAT_SECONDS
    quiet_seconds: float = QUIET_SECONDS
    poll_seconds: float = POLL_SECONDS

    def take(self) -> bool:
        """False: a driver of this cluster has been here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._path.open("x") as file:
                file.write("0")
        except FileExistsError:
            return False
        return True

    async def beat(self) -> None:
        """Renew it for as long as this is not cancelled."""
        count = 0
        while True:
            count += 1
            self._path.write_text(str(count), encoding="utf-8")
            await asyncio.sleep(self.beat_seconds)

    async def alone(self) -> None:
        """Wait until nobody else drives."""
        seen: dict[Path, tuple[str, float]] = {}
        while True:
            lives = [self._lives(other, seen) for other in self._others()]  # of all, so that each is timed from now
            if not any(lives):
                return
            await asyncio.sleep(self.poll_seconds)

    def end(self) -> None:
        """Nobody has to wait for this one."""
        self._path.write_text(_ENDED, encoding="utf-8")

    @property
    def _path(self) -> Path:
        return self.folder / self.holder

    def _others(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path != self._path)

    def _lives(self, other: Path, seen: dict[Path, tuple[str, float]]) -> bool:
        said, now = other.read_text(encoding="utf-8"), time.monotonic()
        if said == _ENDED:
            return False
        if seen.get(other, ("", 0.0))[0] != said:
            seen[other] = (said, now)
        if now - seen[other][1] < self.quiet_seconds:
            return True
        other.write_text(_ENDED, encoding="utf-8")  # so that nobody waits for it again
        return False
