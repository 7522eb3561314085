"""A growing conversation: the policy may `ask` models over several turns. Its message without a call is the answer.

The whole episode is one sample: the prompt of turn k + 1 begins with all ids of turn k. If the template breaks that
rule, the sample forks: a new sample starts from the newly rendered prompt, and the fork is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolorchestra.experts.chat import ChatRequest
from toolorchestra.policy.engine import Generation
from toolorchestra.policy.parser import Parsed, Rules, ToolCall
from toolorchestra.policy.prompts import Message, ToolSchema, chat_messages, chat_tools
from toolorchestra.policy.renderer import Renderer
from toolorchestra.rollout.end import End
from toolorchestra.rollout.modes.mode import output_segments
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.rollout.trace import Call, Ending, Sample, Segment
from toolorchestra.tasks.answer import extract_answer
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import InstanceView


class ChatMode:
    """The mode for tasks of kind Chat."""

    def __init__(self, task: Task, view: InstanceView, *, renderer: Renderer, limits: EpisodeLimits) -> None:
        self._limit = limits.max_prompt_tokens
        self.tools: Sequence[ToolSchema] = chat_tools(view)
        self.rules = Rules(max_calls=limits.max_parallel_calls)
        self.forks = 0
        self._conversation = renderer.conversation(chat_messages(task, view), tools=self.tools)
        self._closed: list[Sample] = []
        self._segments: list[Segment] = []
        self._well_formed = True
        self._recorded = 0

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Return the samples so far. A sample without a sampled token does not count."""
        if not any(segment.trained for segment in self._segments):
            return tuple(self._closed)
        return (*self._closed, Sample(segments=tuple(self._segments), well_formed=self._well_formed))

    def prompt(self) -> Sequence[int] | None:
        ids = self._conversation.prompt
        return ids if len(ids) <= self._limit else None

    def said(self, generation: Generation, *, text: str, parsed: Parsed) -> None:
        given = self._conversation.prompt[self._recorded :]
        self._segments.append(Segment(token_ids=tuple(given)))
        self._segments.extend(output_segments(generation))
        self._conversation.said(generation.token_ids, text=text)
        self._recorded = len(self._conversation.prompt)
        self._well_formed = self._well_formed and parsed.rejection is None

    def question(self, call: ToolCall) -> ChatRequest:
        return ChatRequest(messages=({"role": "user", "content": call.arguments["question"]},))

    def refuse(self, parsed: Parsed) -> None:
        self._extend([{"role": "tool", "content": f"Error: {parsed.detail}."}])

    def conclude(self, message: str) -> End:
        return End(Ending.ANSWERED, answer=extract_answer(message))

    def observe(self, calls: Sequence[Call]) -> End | None:
        self._extend([{"role": "tool", "content": call.observation} for call in calls])
        return None

    def _extend(self, messages: list[Message]) -> None:
        if self._conversation.observe(messages):
            self._closed = list(self.samples)
            self._segments, self._recorded, self._well_formed = [], 0, True
            self.forks += 1
