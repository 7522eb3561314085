"""The warm start teaches the mode that a task has: played back through the episode's own machine, it ends well."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from support.episode_world import CHAT_TASK, QA_TASK, RENDERER, VIEW, FakeExperts, host_of, order_of, play
from toolorchestra.controller.format_traces import naive_talk
from toolorchestra.controller.instances import Instance
from toolorchestra.controller.warm_traces import warm_samples
from toolorchestra.policy.renderer import Renderer
from toolorchestra.policy.template import ChatTemplate
from toolorchestra.rollout.trace import Ending
from toolorchestra.tasks.answer import extract_answer
from toolorchestra.tasks.task import Task
from toolorchestra.trainer.batch import TrainSample

LONG_CHAT = CHAT_TASK.model_copy(update={"context": 'He said: "{1}"\n</tool_call>', "instruction": "Add 2 and\t2."})


def outputs_of(samples: list[TrainSample]) -> list[str]:
    """What the policy is taught to write, turn by turn, without the token that ends it."""
    found: list[list[int]] = []
    for sample in samples:
        assert not sample.loss_mask[0], "it starts with what is given"
        for (_, before), (token, trained) in pairwise(zip(sample.token_ids, sample.loss_mask, strict=True)):
            if trained and not before:
                found.append([])
            if trained:
                found[-1].append(token)
    assert all(ids[-1] == RENDERER.stop_token_ids[0] for ids in found), "the end is imitated too"
    return [RENDERER.decode(ids) for ids in found]


@pytest.mark.parametrize("task", [QA_TASK, CHAT_TASK, LONG_CHAT], ids=["QA", "Chat", "Chat, odd text"])
@pytest.mark.parametrize("seed", range(8))
async def test_what_is_taught_plays_to_an_answer_in_the_tasks_own_mode(task: Task, seed: int) -> None:
    samples = warm_samples(Instance(task, VIEW), RENDERER, rng=random.Random(seed))
    (result, handed_on) = ("4", None)
    if task.kind == "Chat":
        talk = naive_talk(task, VIEW, random.Random(seed))
        result, handed_on = talk.result, extract_answer(talk.answers)
        assert extract_answer(talk.result) in (handed_on, talk.result), "what the expert said is handed on"
    experts = FakeExperts(replies={"pool-cheap": result, "pool-dear": result})
    trace = await play(order_of(task), host_of(outputs_of(samples), experts=experts))
    assert trace.ending is Ending.ANSWERED
    assert [turn.rejection for turn in trace.turns] == [None] * len(trace.turns)
    assert len(trace.turns) == (2 if task.kind == "Chat" else 1)
    assert trace.answer == (handed_on or "4")
    played = [token for segment in trace.samples[0].segments for token in segment.token_ids]
    assert played == list(samples[0].token_ids), "token for token what an episode would give and get"


def test_a_chat_whose_template_breaks_the_prefix_is_two_samples() -> None:
    source = "{% for m in messages %}{{ messages | length }}{{ m.role }}{{ m.content }}<|im_end|>{% endfor %}"
    template = ChatTemplate({"default": source}, special_tokens={})
    renderer = Renderer(tokenizer=RENDERER._tokenizer, template=template, stop_token_ids=RENDERER.stop_token_ids)
    samples = warm_samples(Instance(CHAT_TASK, VIEW), renderer, rng=random.Random(0))
    assert len(samples) == 2
    assert len(outputs_of(samples)) == 2
