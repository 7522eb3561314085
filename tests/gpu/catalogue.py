"""All checks, the most telling first in each part."""

from __future__ import annotations

from pathlib import Path

from gpu.runner import Check

PARTS = {1: "the product on a GPU: demo, equality, the train step", 2: "trainer and engine together, other sizes"}
PART_SECONDS = 300.0


def catalogue(*, demo_steps: int, smollm: Path | None) -> list[Check]:
    """In the order in which they run."""
    return [
        Check(
            name="environment",
            module="gpu.checks.environment",
            what="card, driver, versions, what the card can do",
            seconds=20,
            limit=60,
            settings={},
        ),
        Check(
            name="packed",
            module="gpu.checks.packed",
            what="packed against dense, in float32 and bfloat16",
            seconds=25,
            limit=90,
            settings={},
        ),
        Check(
            name="step-1.7B",
            module="gpu.checks.step",
            what="the train step: tokens/s, MFU, peak against plan",
            subject="1.7B",
            seconds=60,
            limit=150,
            settings={},
        ),
        Check(
            name="demo",
            module="gpu.checks.demo",
            what=f"the demo end to end with its bars, {demo_steps} steps",
            seconds=80 + 0.8 * demo_steps,
            limit=420,
            settings={"demo_steps": demo_steps},
        ),
    ]
