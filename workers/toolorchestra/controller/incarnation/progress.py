"""The status on its way to the operator: into the training's bucket."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass

from toolorchestra.bus.errors import BusError
from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.contract.progress import PROGRESS_KEY
from toolorchestra.runs.status import StatusWriter

_log = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
"""Least time between two tellings."""


@dataclass(frozen=True)
class Progress:
    """Tells the newest status, not every one."""

    status: StatusWriter
    bus: RolloutBus

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            await self.status.changed.wait()
            await self.tell()
            await asyncio.sleep(PROGRESS_SECONDS)

    async def tell(self) -> None:
        """Now."""
        self.status.changed.clear()
        try:
            await self.bus.put(PROGRESS_KEY, json.dumps(self.status.latest).encode())
        except BusError as error:  # the run goes on; the next change is told again
            _log.warning("progress was not told: %s", error)
