"""Random training samples over the tiny model's vocabulary."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from toolorchestra.trainer.batch import TrainSample


def random_sample(rng: random.Random, length: int, *, vocabulary: int = 256) -> TrainSample:
    """Two sampled spans with a tool's answer between them, log probabilities near a random policy's."""
    ids = [rng.randrange(vocabulary) for _ in range(length)]
    mask = [False] + [rng.random() < 0.5 for _ in range(length - 1)]
    mask[-1] = True
    logprobs = [rng.gauss(-5.5, 0.3) if trained else 0.0 for trained in mask]
    return TrainSample(ids, mask, logprobs, rng.gauss(0, 1))


def random_batch(seed: int, count: int, *, shortest: int = 2, longest: int = 120) -> list[TrainSample]:
    rng = random.Random(seed)
    return [random_sample(rng, rng.randint(shortest, longest)) for _ in range(count)]


def sibling_batch(seed: int, *, groups: int, siblings: int, vocabulary: int = 256) -> list[TrainSample]:
    """Groups of samples that start from one prompt of 10 to 60 tokens each, in mixed order."""
    rng = random.Random(seed)
    samples = []
    for _ in range(groups):
        prompt = [rng.randrange(vocabulary) for _ in range(rng.randint(10, 60))]
        for _ in range(siblings):
            rest = random_sample(rng, rng.randint(2, 30), vocabulary=vocabulary)
            samples.append(
                TrainSample(
                    [*prompt, *rest.token_ids],
                    [*[False] * len(prompt), True, *rest.loss_mask[1:]],
                    [*[0.0] * len(prompt), -5.5, *rest.logprobs[1:]],
                    rest.advantage,
                )
            )
    rng.shuffle(samples)
    return samples


def some_fresh(samples: Sequence[TrainSample], *, seed: int) -> list[TrainSample]:
    """The samples with half of their tokens, trained or not, of the step's own weights; one in four does not say."""
    rng = random.Random(seed)
    return [
        dataclasses.replace(s, fresh=[rng.random() < 0.5 for _ in s.token_ids] if rng.random() < 0.75 else ())
        for s in samples
    ]


def fresh_places(sample: TrainSample) -> list[int]:
    """Positions of the trained tokens on which trainer and engine are compared."""
    return [i for i, (t, f) in enumerate(zip(sample.loss_mask, sample.fresh, strict=False)) if t and f]
