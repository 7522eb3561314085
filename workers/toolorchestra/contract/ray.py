"""What head and nodes of a training's Ray cluster agree on."""

from __future__ import annotations

from typing import Final

GCS_PORT: Final = 6379
"""Of the head."""
TRAINER_ROLE: Final = "trainer"
ENGINE_ROLE: Final = "engine"
"""Ray resources of a cluster's nodes: one of its kind on each."""
