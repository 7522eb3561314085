"""The contract of a grader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolorchestra.extend.contracts.broken import ContractBroken, hold
from toolorchestra.tasks.blocking_judge import BlockingJudge
from toolorchestra.tasks.grader import GraderFailure, check_grader, reference_answer
from toolorchestra.tasks.task import GraderSpec, Task

HOSTILE = (
    "",
    " ",
    "\0",
    "nan",
    "-" * 5000,
    "9" * 5000,
    "(" * 5000,
    "\ud800",
    "__import__('os').getcwd()",
    "\u202e\N{SNOWMAN}" * 1000,
)
"""Answers that no grader may fail on."""


def grader(name: str, *, data: Mapping[str, Any], right: Sequence[str], wrong: Sequence[str]) -> None:
    """Hold the grader `name` against its contract, through the judge that a worker has.

    Its check takes `data` and refuses what it does not know; every answer of `right` scores as right, every one of
    `wrong` does not; its reference, where it knows one, is right; no answer makes it fail.

    Raises:
        ContractBroken: it does not.
    """
    hold(bool(right and wrong), "give right answers and wrong ones: a test of only one kind cannot fail")
    found = check_grader(GraderSpec(type=name, data=dict(data)))
    hold(not found, f"check refuses the data: {found}")
    hold(
        bool(check_grader(GraderSpec(type=name, data={"no such field": 1}))), "check takes a field that is not its own"
    )
    task = Task(id="contract", instruction="?", grader=GraderSpec(type=name, data=dict(data)), source="contract")
    with BlockingJudge() as judge:

        def outcome(answer: str) -> float:
            try:
                return judge(task, answer).outcome
            except GraderFailure as error:
                raise ContractBroken(f"{answer[:40]!r}: {error}") from error

        for answer in right:
            hold(outcome(answer) == 1, f"{answer!r} is right, and does not score as right")
        for answer in wrong:
            hold(outcome(answer) == 0, f"{answer!r} is wrong, and scores as right")
        if (reference := reference_answer(task)) is not None:
            hold(outcome(reference) == 1, f"its own reference {reference!r} does not score as right")
        for answer in HOSTILE:
            outcome(answer)
