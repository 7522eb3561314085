"""Token sequences for the warm start: a naive router's conversations over training instances, rendered as the policy
will see them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from toolorchestra.policy.prompts import qa_messages, qa_tools
from toolorchestra.policy.renderer import Renderer
from toolorchestra.train.batch import TrainSample
from toolorchestra.train.format_traces import naive_route
from toolorchestra.train.warm_start import supervised_sample
from toolorchestra.train.world import World

FIRST_GROUP = 1 << 40
"""Instances of the warm start are drawn far from RL's: group numbers from here on."""


def warm_batches(
    world: World, renderer: Renderer, *, steps: int, batch_size: int, seed: int
) -> Iterator[list[TrainSample]]:
    """One batch per step; deterministic. The prompt is masked, the completion and its end are imitated."""
    rng = random.Random(f"{seed}/warm-start")
    for step in range(steps):
        yield [_sample(world, renderer, group=FIRST_GROUP + step * batch_size + i, rng=rng) for i in range(batch_size)]


def _sample(world: World, renderer: Renderer, *, group: int, rng: random.Random) -> TrainSample:
    instance = world.instance(group)
    prompt = renderer.render(qa_messages(instance.task, instance.view), tools=qa_tools(instance.view))
    completion = (*renderer.encode(naive_route(instance.task, instance.view, rng)), renderer.stop_token_ids[0])
    mask = [False] * len(prompt) + [True] * len(completion)
    return supervised_sample((*prompt, *completion), mask)
