"""The bench's fixed world: one tiny model folder and one trajectory file, made from a seed, read by both sides.

4 prompts x 8 siblings, prompt 256 tokens, completion lengths lognormal(ln 160, 0.9) clipped to 16..1024 (the shape that
training.md fixes). The sampler's log probabilities are the model's own plus noise, so that clipping is met.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

SEED = 0
PROMPTS, SIBLINGS, PROMPT_TOKENS = 4, 8, 256
VOCABULARY = 4096
MODEL = {"hidden": 192, "layers": 4, "heads": 6, "kv_heads": 2, "head_dim": 32, "vocabulary": VOCABULARY, "tied": False}
STEP = {"lr": 1e-6, "clip_low": 0.2, "clip_high": 0.28, "max_grad_norm": 1.0}
WARM_UP, STEPS = 2, int(os.environ.get("BENCH_STEPS", "10"))


def draw_trajectories(seed: int = SEED) -> list[dict[str, Any]]:
    """32 sequences without log probabilities."""
    rng = random.Random(seed)
    rows = []
    for _ in range(PROMPTS):
        prompt = [rng.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)]
        for _ in range(SIBLINGS):
            length = min(1024, max(16, round(rng.lognormvariate(math.log(160), 0.9))))
            completion = [rng.randrange(VOCABULARY) for _ in range(length)]
            rows.append({"prompt": prompt, "completion": completion, "advantage": round(rng.gauss(0, 1), 6)})
    return rows


def make(folder: Path) -> None:
    """Write model/ and trajectories.json under `folder`; runs in the project's environment."""
    from support.tiny_model import tiny_model
    from toolorchestra.trainer.trainer import Trainer, TrainerConfig

    model = tiny_model(folder / "model", seed=SEED, spread=0.02, **MODEL)  # type: ignore[arg-type]
    rows, rng = draw_trajectories(), random.Random(SEED + 1)
    own = Trainer(TrainerConfig(model_dir=str(model), device="cpu")).logprobs([as_sample(row) for row in rows])
    for index, row in enumerate(rows):
        row["logprobs"] = [round(value + rng.gauss(0, 0.2), 6) for value in own[index][PROMPT_TOKENS:]]
    (folder / "trajectories.json").write_text(json.dumps(rows))


def as_sample(row: dict[str, Any]) -> Any:
    """A row as our trainer takes it."""
    from toolorchestra.trainer.batch import TrainSample

    prompt, completion = row["prompt"], row["completion"]
    logprobs = row.get("logprobs", [0.0] * len(completion))
    mask = [False] * len(prompt) + [True] * len(completion)
    return TrainSample(prompt + completion, mask, [0.0] * len(prompt) + logprobs, row["advantage"])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
