"""Publishes the status for the operator, in the training's key-value bucket."""

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
"""Minimum time between two publications."""


@dataclass(frozen=True)
class Progress:
    """Publishes the newest status, not every change."""

    status: StatusWriter
    bus: RolloutBus

    async def follow(self) -> None:
        """Publish the status after changes, until cancelled."""
        while True:
            await self.status.changed.wait()
            await self.tell()
            await asyncio.sleep(PROGRESS_SECONDS)

    async def tell(self) -> None:
        """Publish the newest status now."""
        self.status.changed.clear()
        try:
            await self.bus.put(PROGRESS_KEY, json.dumps(self.status.latest).encode())
        except BusError as error:  # the run continues; the next change is published again
            _log.warning("the status was not published: %s", error)
