"""All checks, the most telling first in each part."""

from __future__ import annotations

from pathlib import Path

from gpu.runner import Check

PARTS = {
    1: "the product on a GPU: demo, equality, the train step",
    2: "trainer and engine together",
    3: "other sizes, CUDA graphs",
}
PART_SECONDS = 300.0


def catalogue(*, demo_steps: int, smollm: Path | None) -> list[Check]:
    """In the order in which they run."""
    return [
        Check(
            name="environment",
            module="gpu.checks.environment",
            what="card, driver, versions, what the card can do",
            seconds=10,
            limit=60,
        ),
        Check(
            name="packed",
            module="gpu.checks.packed",
            what="packed against dense, in float32 and bfloat16",
            seconds=30,
            limit=90,
        ),
        Check(
            name="step-1.7B",
            module="gpu.checks.step",
            what="the train step: tokens/s, MFU, peak against plan",
            subject="1.7B",
            seconds=70,
            limit=150,
        ),
        Check(
            name="demo",
            module="gpu.checks.demo",
            what=f"the demo end to end with its bars, {demo_steps} steps",
            seconds=115 + 1.1 * demo_steps,
            limit=420,
            settings={"demo_steps": demo_steps},
        ),
        Check(
            name="transfer-1.7B",
            module="gpu.checks.transfer",
            what="weights to the engine, agreement, greedy tokens, eager throughput",
            part=2,
            subject="1.7B",
            seconds=145,
            limit=220,
        ),
        Check(
            name="real-weights",
            module="gpu.checks.real_weights",
            what="agreement of trainer and engine on SmolLM2-135M",
            part=2,
            seconds=70,
            limit=150,
            settings={"smollm": smollm is not None and (smollm / "config.json").is_file()},
        ),
        Check(
            name="step-0.6B",
            module="gpu.checks.step",
            what="the train step of a smaller model",
            part=3,
            subject="0.6B",
            seconds=30,
            limit=90,
        ),
        Check(
            name="graphs-1.7B",
            module="gpu.checks.graphs",
            what="the engine with CUDA graphs: start, throughput",
            part=3,
            subject="1.7B",
            seconds=80,
            limit=180,
        ),
        Check(
            name="step-4B",
            module="gpu.checks.step",
            what="the train step of a larger model, as the plan lets it",
            part=3,
            subject="4B",
            seconds=75,
            limit=180,
        ),
    ]
