"""Places in Ray where a trainer and an engine share a GPU: one placement group, a bundle with one whole GPU each.

Without it Ray would put two trainers that want half a GPU on one. The group is detached, as the engines in it are: it
outlives a killed controller, and is found again.
"""

from __future__ import annotations

from contextlib import suppress

from ray.util import get_placement_group
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from toolorchestra.train.driver_config import ENGINE_ROLE, TRAINER_ROLE

NAME = "rooms"


def rooms(size: int, *, by_role: bool) -> PlacementGroup:
    """Those of this training's namespace, made where they are not there. `by_role`: on the cluster's nodes for both."""
    with suppress(ValueError):
        return get_placement_group(NAME)
    bundle: dict[str, float] = {"CPU": 2, "GPU": 1}
    if by_role:
        bundle |= {TRAINER_ROLE: 1, ENGINE_ROLE: 1}
    return placement_group([bundle] * size, strategy="PACK", name=NAME, lifetime="detached")


def at(places: PlacementGroup, number: int) -> PlacementGroupSchedulingStrategy:
    """In one of them."""
    return PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=number)
