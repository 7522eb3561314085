"""The batch that the train step is measured with, drawn from a seed. Pure."""

from __future__ import annotations

import math
import random

from toolorchestra.trainer.batch import TrainSample

PROMPT_TOKENS, SIBLINGS = 1000, 8
MEDIAN_TOKENS, SPREAD, SHORTEST, LONGEST = 800, 0.9, 16, 4096
"""Completions: lognormal(ln 800, 0.9), clipped; the same shape as tests/bench/train_step, five times as long."""


def draw_batch(
    prompts: int,
    *,
    vocabulary: int,
    prompt_tokens: int = PROMPT_TOKENS,
    median: int = MEDIAN_TOKENS,
    siblings: int = SIBLINGS,
    seed: int = 0,
) -> list[TrainSample]:
    """`prompts` × `siblings` random sequences. With 8 prompts, Qwen3's vocabulary and seed 0: 136,135 tokens, 72,135 of
    them trained. The sampler's log probabilities are those of even chances."""
    rng = random.Random(seed)
    even = -math.log(vocabulary)
    samples = []
    for _ in range(prompts):
        prompt = [rng.randrange(vocabulary) for _ in range(prompt_tokens)]
        for _ in range(siblings):
            drawn = round(rng.lognormvariate(math.log(median), SPREAD))
            length = min(LONGEST, max(SHORTEST, drawn))
            completion = [rng.randrange(vocabulary) for _ in range(length)]
            mask = [False] * prompt_tokens + [True] * length
            logprobs = [0.0] * prompt_tokens + [even] * length
            samples.append(TrainSample(prompt + completion, mask, logprobs, round(rng.gauss(0, 1), 6)))
    return samples
