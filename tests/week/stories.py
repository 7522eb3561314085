"""What the trainings of a week live through. Pure: a seed gives the same week."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, Literal

Story = Literal[
    "completes",
    "fails once, then completes",
    "fails for good",
    "is suspended and resumed",
    "is deleted while it runs",
    "is made again under its name",
    "is wrong",
    "lacks a Secret for a while",
    "meets foreign objects",
    "names a dead NATS server",
]
SHARES: Final[dict[Story, int]] = {
    "completes": 22,
    "fails once, then completes": 12,
    "fails for good": 12,
    "is suspended and resumed": 10,
    "is deleted while it runs": 10,
    "is made again under its name": 8,
    "is wrong": 8,
    "lacks a Secret for a while": 6,
    "meets foreign objects": 8,
    "names a dead NATS server": 4,
}
"""Of a hundred trainings."""
FOREIGN: Final = ("deployment", "job", "configmap", "secret", "service", "claim")
"""Kinds of objects of somebody else that bear a name which a training's own would have."""


@dataclass(frozen=True, order=True)
class Life:
    """One training's. `variant` numbers those of a story; `name` is of its tenant alone."""

    tenant: str
    name: str
    story: Story
    variant: int


def tenants(number: int) -> list[str]:
    return [f"tenant-{one}" for one in range(number)]


def week(*, seed: int, trainings: int, spaces: list[str]) -> list[Life]:
    """In the order in which they begin. Tenants share a few names, as teams do."""
    rng = random.Random(seed)
    stories = [story for story, share in SHARES.items() for _ in range(max(1, round(share * trainings / 100)))]
    rng.shuffle(stories)
    counts: dict[Story, int] = {}
    lives = []
    for number, story in enumerate(stories[:trainings]):
        variant = counts[story] = counts.get(story, -1) + 1
        tenant = spaces[number % len(spaces)]
        lives.append(Life(tenant, f"run-{number // len(spaces)}", story, variant))
    return lives
