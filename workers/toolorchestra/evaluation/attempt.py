"""Attempt: the part of a trace that evaluation uses. Baselines consist of attempts; some combine several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from toolorchestra.rollout.trace import Trace
from toolorchestra.tools.view import InstanceView, Price

_LIST_TOKENS = 1000


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One system's episode on one task of a suite, in dollars and seconds. `outcome` None: not scored.

    `key` identifies the task in the suite: attempts of two systems with the same key are a pair.
    """

    key: str
    topic: str
    outcome: float | None
    nominal_usd: float
    actual_usd: float
    service_seconds: float
    wall_seconds: float
    calls: Mapping[str, int]
    turns: int
    ending: str
    answer: str | None
    view: InstanceView = field(repr=False)

    @property
    def right(self) -> bool:
        return self.outcome is not None and self.outcome >= 1


def attempts_of(traces: Iterable[Trace]) -> list[Attempt]:
    """Return the attempts of one system on one suite; a task that the suite has twice gets numbered keys.

    A scored trace replaces an unscored one of the same episode (which was dispatched again).
    """
    latest: dict[tuple[str, str], Trace] = {}
    for trace in traces:
        episode = trace.issue.rsplit(".", 2)[0]
        previous = latest.get((trace.task_id, episode))
        if previous is None or previous.components.outcome is None:
            latest[trace.task_id, episode] = trace
    seen: dict[str, int] = {}
    attempts = []
    for (task, _), trace in latest.items():
        seen[task] = seen.get(task, 0) + 1
        attempts.append(_attempt(trace, key=task if seen[task] == 1 else f"{task}#{seen[task]}"))
    return attempts


def _attempt(trace: Trace, *, key: str) -> Attempt:
    measured = trace.components
    return Attempt(
        key=key,
        topic=trace.topic or trace.source,
        outcome=measured.outcome,
        nominal_usd=float(measured.cost_usd),
        actual_usd=float(measured.actual_usd),
        service_seconds=measured.service_seconds,
        wall_seconds=measured.wall_seconds,
        calls=dict(measured.calls),
        turns=len(trace.turns),
        ending=trace.ending.value,
        answer=trace.answer,
        view=trace.view,
    )


def list_price(price: Price) -> float:
    """Return the dollars for a call of 1,000 tokens in and 1,000 out, which compares experts by list price."""
    return float(price.of(tokens_in=_LIST_TOKENS, tokens_out=_LIST_TOKENS))
