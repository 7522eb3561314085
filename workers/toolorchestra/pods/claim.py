"""Claims on a run, one file in storage per Ray cluster, so that two drivers never write to one run.

KubeRay may start a driver a second time after its head was lost, and may start a new cluster while the old one's pods
still write their last checkpoint. Invariants: a cluster starts a driver only once; the next cluster's driver waits
until all other claims are ended or were not renewed for a while. Clocks of different machines are never compared.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

BEAT_SECONDS = 5.0
QUIET_SECONDS = 30.0
"""A claim that was not renewed for this long counts as ended: several beats, with a margin for slow file systems."""
POLL_SECONDS = 1.0
_ENDED = "ended"


@dataclass
class Claim:
    """The claim of the Ray cluster `holder` on the run whose claims are in `folder`."""

    folder: Path
    holder: str
    beat_seconds: float = BEAT_SECONDS
    quiet_seconds: float = QUIET_SECONDS
    poll_seconds: float = POLL_SECONDS

    def take(self) -> bool:
        """Create the claim; return False where a driver of this cluster has already had it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._path.open("x") as file:
                file.write("0")
        except FileExistsError:
            return False
        return True

    async def beat(self) -> None:
        """Renew the claim until cancelled."""
        count = 0
        while True:
            count += 1
            self._path.write_text(str(count), encoding="utf-8")
            await asyncio.sleep(self.beat_seconds)

    async def alone(self) -> None:
        """Wait until no other claim is active."""
        seen: dict[Path, tuple[str, float]] = {}
        while True:
            # A list, not a generator: every claim has to be read now, so that its time begins now.
            active = [self._is_active(other, seen) for other in self._others()]
            if not any(active):
                return
            await asyncio.sleep(self.poll_seconds)

    def end(self) -> None:
        """End the claim: other clusters need not wait for it any more."""
        self._path.write_text(_ENDED, encoding="utf-8")

    @property
    def _path(self) -> Path:
        return self.folder / self.holder

    def _others(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path != self._path)

    def _is_active(self, other: Path, seen: dict[Path, tuple[str, float]]) -> bool:
        said, now = other.read_text(encoding="utf-8"), time.monotonic()
        if said == _ENDED:
            return False
        if seen.get(other, ("", 0.0))[0] != said:
            seen[other] = (said, now)
        if now - seen[other][1] < self.quiet_seconds:
            return True
        other.write_text(_ENDED, encoding="utf-8")  # so that no later driver waits for it
        return False
