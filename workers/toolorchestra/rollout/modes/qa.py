"""QA with memory slots (method.md §2): every turn has a new prompt and its own sample. An executed `answer` ends it.

The problem is always complete. Earlier attempts (refused outputs, refusals of experts) follow, newest first, up to
8,000 tokens and within the prompt's limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolorchestra.experts.answerer import answer_messages
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.policy.engine import Generation
from toolorchestra.policy.parser import Parsed, Rules, ToolCall
from toolorchestra.policy.prompts import ToolSchema, problem_text, qa_messages, qa_tools
from toolorchestra.policy.renderer import Renderer
from toolorchestra.rollout.end import End
from toolorchestra.rollout.modes.mode import output_segments
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.rollout.trace import Call, Ending, Sample, Segment
from toolorchestra.tasks.answer import extract_answer
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import InstanceView

ATTEMPTS_CAP = 8_000
"""Token limit for earlier attempts."""
_SHOWN_CHARACTERS = 200
"""Characters of a refused output that the next prompt repeats."""


def answer_request(task: Task, view: InstanceView) -> ChatRequest:
    """Return the request to the chosen model. Baselines use it too."""
    return ChatRequest(messages=answer_messages(problem_text(task, view)))


class QAMode:
    """The mode for tasks of kind QA."""

    def __init__(self, task: Task, view: InstanceView, *, renderer: Renderer, limits: EpisodeLimits) -> None:
        self._task = task
        self._view = view
        self._renderer = renderer
        self._limit = limits.max_prompt_tokens
        self._attempts: list[str] = []
        self._prompt: tuple[int, ...] = ()
        self._samples: list[Sample] = []
        self.tools: Sequence[ToolSchema] = qa_tools(view)
        self.rules = Rules(call_required=True, max_calls=limits.max_parallel_calls, one_per_tool=True)
        self.forks = 0
        """Always 0: a prompt of this mode never extends an earlier one."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._samples)

    def prompt(self) -> Sequence[int] | None:
        newest_first = self._fitting(self._attempts[::-1])
        while True:
            messages = qa_messages(self._task, self._view, attempts=newest_first)
            self._prompt = self._renderer.render(messages, tools=self.tools)
            if len(self._prompt) <= self._limit:
                return self._prompt
            if not newest_first:
                return None
            newest_first.pop()

    def _fitting(self, newest_first: Sequence[str]) -> list[str]:
        kept: list[str] = []
        used = 0
        for attempt in newest_first:
            used += len(self._renderer.encode(attempt))
            if used > ATTEMPTS_CAP:
                break
            kept.append(attempt)
        return kept

    def said(self, generation: Generation, *, text: str, parsed: Parsed) -> None:
        segments = (Segment(token_ids=self._prompt), *output_segments(generation))
        self._samples.append(Sample(segments=segments, well_formed=parsed.rejection is None))

    def question(self, call: ToolCall) -> ChatRequest:
        return answer_request(self._task, self._view)

    def refuse(self, parsed: Parsed) -> None:
        said = f" You wrote: {parsed.message[:_SHOWN_CHARACTERS]}" if parsed.message else ""
        self._attempts.append(f"- Not a valid call: {parsed.detail}.{said}")

    def conclude(self, message: str) -> End:
        raise AssertionError("this mode requires a call, so the parser refuses a message without one")

    def observe(self, calls: Sequence[Call]) -> End | None:
        for call in calls:
            if call.status == "ok":
                return End(Ending.ANSWERED, answer=extract_answer(call.observation))
            self._attempts.append(f"- {call.alias}: {call.observation[:_SHOWN_CHARACTERS]}")
        return None
