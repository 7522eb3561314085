"""The metrics of a scene's controller."""

from __future__ import annotations

from support.controller_scene import Scene
from support.metric_points import Measured
from toolorchestra.controller.wire import BusWire


def metered(scene: Scene) -> Measured:
    """The scene's controller and wire tell a reader."""
    seen = Measured()
    scene.controller.recorder = seen.recorder
    scene.controller.wire = BusWire(scene.bus, recorder=seen.recorder)
    scene.controller.outbox.wire = scene.controller.wire
    return seen
