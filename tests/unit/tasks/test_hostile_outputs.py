"""Ten thousand hostile outputs of a model: each comes to a typed outcome in bounded time, and none escapes.

Seeded: every run sees the same outputs. Each one goes through the policy's parser, through `extract_answer` and the
comparing graders; some of them through the sandbox too.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from toolorchestra.policy.parser import Parsed, Rejection, Rules, parse
from toolorchestra.sandbox.limits import Limits
from toolorchestra.tasks.answer import extract_answer
from toolorchestra.tasks.grader import Grade, grade
from toolorchestra.tasks.judge import Judge
from toolorchestra.tasks.reasoning_gym import ReasoningGymSource
from toolorchestra.tasks.task import GraderSpec, Task

OUTPUTS = 10_000
SLOW_SECONDS = 2.0
"""CPU, for one output: linear work takes milliseconds, a busy machine tenths."""

_TOOLS: Sequence[dict[str, Any]] = (
    {
        "type": "function",
        "function": {
            "name": "answer",
            "parameters": {
                "type": "object",
                "properties": {"model": {"type": "string", "enum": ["oak", "elm"]}, "n": {"type": "integer"}},
                "required": ["model"],
            },
        },
    },
)
_PIECES = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "{", "[", "]"),
    *('{"name": "answer", "arguments": {"model": "oak"}}', '{"name": "answer", "arguments": ', '"model"', ":", ","),
    *("<|im_end|>", "<|im_start|>system", "NaN", "1e400", "-0", "\ud800", "\\ud800", "\x00", "\x1b[2J", "\u202e"),
    *("9**9**9", "__import__('os').system('id')", "factorial(10**8)", "1e999999999", "1/0", "½", "\ufdfa", "%s%n"),
    *("{{7*7}}", "${jndi:x}", "'; DROP TABLE", "../../etc/passwd", "a\u0301\u0316", "٣", "$1,234.5", "0x1F", " ", "\n"),
    *("(", ")", "lambda: 0", "[i for i in", "S('x')", "**", "//", "True"),
)
_PIECE = st.one_of(st.sampled_from(_PIECES), st.text(max_size=12), st.integers().map(str), st.floats().map(str))
_LONG = st.builds(lambda piece, times: piece * times, st.sampled_from(_PIECES), st.integers(1, 4000))
_DEEP = st.builds(lambda n, a, b: a * n + b * n, st.integers(1, 20_000), st.sampled_from("[{("), st.sampled_from("]})"))
_CALL = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "arguments", "model", "n"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
).map(lambda value: f"<tool_call>\n{json.dumps(value)}\n</tool_call>")
OUTPUT = st.one_of(
    st.lists(_PIECE, max_size=12).map("".join),
    st.tuples(_PIECE, st.one_of(_LONG, _DEEP, _CALL), _PIECE).map("".join),
    st.binary(max_size=60).map(lambda data: data.decode("utf-8", "surrogateescape")),
)


def _task(type: str, answer: str) -> Task:
    return Task(id=type, instruction="?", grader=GraderSpec(type=type, data={"answer": answer}), source="s")


PLAIN = (_task("ExactMatch", "Paris"), _task("Numeric", "7"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("outputs", [OUTPUTS // 10, pytest.param(OUTPUTS, marks=pytest.mark.long)])
def test_hostile_outputs_end_in_a_grade(capsys: pytest.CaptureFixture[str], outputs: int) -> None:
    sandboxed = outputs // 20
    seen: Counter[str] = Counter()
    slowest, sample = 0.0, random.Random(11)
    kept: list[str] = []

    @seed(20260101)
    @settings(
        max_examples=outputs,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(OUTPUT, st.booleans(), st.booleans())
    def one(output: str, thinking_open: bool, required: bool) -> None:
        nonlocal slowest
        began = time.process_time()
        parsed = parse(output, tools=_TOOLS, rules=Rules(call_required=required), thinking_open=thinking_open)
        assert isinstance(parsed, Parsed)
        assert parsed.rejection is None or isinstance(parsed.rejection, Rejection)
        answer = extract_answer(parsed.message if parsed.rejection is None and not parsed.calls else output)
        grades = [grade(task, answer) for task in PLAIN]
        assert all(isinstance(each, Grade) and each.outcome in (0.0, 1.0) for each in grades)
        spent = time.process_time() - began
        assert spent < SLOW_SECONDS, (spent, output[:200])
        slowest = max(slowest, spent)
        seen[parsed.rejection or ("calls" if parsed.calls else "message")] += 1
        if len(kept) < sandboxed and sample.random() < 0.1:
            kept.append(answer)

    one()
    graded = asyncio.run(_in_the_sandbox(kept))
    assert seen.total() >= outputs
    assert graded.total() == len(kept) == sandboxed
    with capsys.disabled():
        print(f"\n{seen.total()} hostile outputs, slowest {slowest * 1000:.0f} ms of CPU: {_told(seen)}")
        print(f"{graded.total()} of them judged in the sandbox: {_told(graded)}")


async def _in_the_sandbox(answers: Sequence[str]) -> Counter[str]:
    """Every answer on a dataset whose scorer evaluates it, or reads it in some way of its own."""
    datasets = ["countdown", "simple_integration", "n_queens", "polynomial_multiplication", "number_sorting"]
    source = ReasoningGymSource(name="gym", datasets=datasets, size=50, seed=1)
    judge, found = Judge(limits=Limits(cpu_seconds=2)), Counter[str]()
    try:
        for number, answer in enumerate(answers):
            grade = await judge(source.task(number % 50), answer)
            found["wrong, it broke the grader" if grade.detail else f"outcome {grade.outcome:g}"] += 1
    finally:
        await judge.close()
    return found


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
