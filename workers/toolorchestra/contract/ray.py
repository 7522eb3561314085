"""Port and resource names that head and nodes of a training's Ray cluster share."""

from __future__ import annotations

from typing import Final

GCS_PORT: Final = 6379
"""Port of the head's GCS server."""
TRAINER_ROLE: Final = "trainer"
ENGINE_ROLE: Final = "engine"
"""Ray resources of a cluster's nodes: each node has one unit of its role."""
