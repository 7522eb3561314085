"""Token sequences for the warm start: a naive router's episodes on training instances.

Each episode is in its task's mode and is rendered as the policy will see it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from toolorchestra.controller.format_traces import naive_route, naive_talk
from toolorchestra.controller.instances import Instance, Instances
from toolorchestra.policy.prompts import chat_messages, chat_tools, qa_messages, qa_tools
from toolorchestra.policy.renderer import Renderer
from toolorchestra.trainer.batch import TrainSample
from toolorchestra.trainer.supervised import supervised_sample

FIRST_GROUP = 1 << 40
"""First group number of the warm start's instances; RL never reaches such numbers."""


def warm_batches(
    instances: Instances, renderer: Renderer, *, steps: int, batch_size: int, seed: int
) -> Iterator[list[TrainSample]]:
    """Yield one batch of `batch_size` episodes per step; deterministic.

    Tokens that the policy is given are masked. Tokens that it has to write, with the end-of-turn token, are trained on.
    """
    rng = random.Random(f"{seed}/warm-start")
    for step in range(steps):
        groups = range(FIRST_GROUP + step * batch_size, FIRST_GROUP + (step + 1) * batch_size)
        yield [sample for group in groups for sample in warm_samples(instances.instance(group), renderer, rng=rng)]


def warm_samples(instance: Instance, renderer: Renderer, *, rng: random.Random) -> list[TrainSample]:
    """Return one episode's samples; more than one only where the template changes a chat's prefix (renderer.py)."""
    task, view = instance.task, instance.view
    if task.kind == "QA":
        prompt = renderer.render(qa_messages(task, view), tools=qa_tools(view))
        return [_sample([(prompt, _output(naive_route(task, view, rng), renderer))])]
    talk = naive_talk(task, view, rng)
    conversation = renderer.conversation(chat_messages(task, view), tools=chat_tools(view))
    asks, answers = _output(talk.asks, renderer), _output(talk.answers, renderer)
    asked = (tuple(conversation.prompt), asks)
    conversation.said(asks, text=talk.asks)
    seen = len(conversation.prompt)
    forked = conversation.observe([{"role": "tool", "content": talk.result}])
    if forked:
        return [_sample([asked]), _sample([(tuple(conversation.prompt), answers)])]
    return [_sample([asked, (tuple(conversation.prompt[seen:]), answers)])]


def _output(text: str, renderer: Renderer) -> tuple[int, ...]:
    return (*renderer.encode(text), renderer.stop_token_ids[0])


def _sample(turns: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> TrainSample:
    """Join the turns, each a pair of given tokens and written tokens, into one sample."""
    ids: list[int] = []
    mask: list[bool] = []
    for given, written in turns:
        ids += [*given, *written]
        mask += [False] * len(given) + [True] * len(written)
    return supervised_sample(ids, mask)
