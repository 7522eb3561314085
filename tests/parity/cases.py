"""The parity cases: committed inputs (inputs.json) under several settings. Plain data, read on both sides.

`python tests/parity/cases.py` writes inputs.json anew; it is committed, so that both sides read the same numbers.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SEQUENCES, LENGTH = 6, 12


@dataclass(frozen=True)
class Case:
    """Settings in our words; a peer that lacks one of them leaves the case out."""

    name: str
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    entropy_coefficient: float = 0.0
    kl_coefficient: float = 0.0
    kl_estimator: str = "k3"
    aggregation: str = "token_mean"


CASES = (
    Case("clip"),
    Case("narrow clip", clip_low=0.05, clip_high=0.1),
    Case("dual clip", dual_clip=3.0),
    Case("tight dual clip", dual_clip=1.5),
    Case("sequence mean", aggregation="sequence_mean"),
    Case("entropy bonus", entropy_coefficient=0.05),
    Case("kl k3", kl_coefficient=0.1),
    Case("kl k2", kl_coefficient=0.1, kl_estimator="k2"),
    Case("kl k1", kl_coefficient=0.1, kl_estimator="k1"),
    Case("recipe", dual_clip=10.0, kl_coefficient=1e-4, kl_estimator="half_delta_squared"),
)


def read_inputs() -> dict[str, Any]:
    """[sequence][position] each: logprobs, sampler, reference, entropy, mask; [sequence]: advantages."""
    inputs: dict[str, Any] = json.loads((HERE / "inputs.json").read_text())
    return inputs


def make_inputs(seed: int = 0) -> dict[str, Any]:
    """Ratios from 1/5 to 5, so that every clip is met; unequal lengths, one masked tool answer, both signs."""
    rng = random.Random(seed)

    def grid(draw: Any) -> list[list[float]]:
        return [[round(draw(), 6) for _ in range(LENGTH)] for _ in range(SEQUENCES)]

    logprobs = grid(lambda: -rng.expovariate(0.7))
    lengths = [LENGTH, 7, 3, 10, 1, 5]
    mask = [[int(i < n and not (row == 0 and 4 <= i < 6)) for i in range(LENGTH)] for row, n in enumerate(lengths)]
    return {
        "logprobs": logprobs,
        "sampler": [[round(v + rng.uniform(-1.6, 1.6), 6) for v in row] for row in logprobs],
        "reference": [[round(v + rng.gauss(0, 0.5), 6) for v in row] for row in logprobs],
        "entropy": grid(lambda: rng.uniform(0, 3)),
        "mask": mask,
        "advantages": [round(rng.gauss(0, 1), 6) for _ in range(SEQUENCES)],
    }


if __name__ == "__main__":
    (HERE / "inputs.json").write_text(json.dumps(make_inputs(), indent=1) + "\n")
