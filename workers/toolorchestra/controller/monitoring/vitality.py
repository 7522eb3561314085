"""Decides whether a run still learns, from the policy's outputs and the samples of its steps.

A run that trains on nothing costs time and money and ends without an error. This module only decides: the controller
reports what happened (`played`, `stepped`), and asks between two steps (`complaint`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.api.conditions import Reason
from toolorchestra.rollout.trace import Trace

EMPTY_STEPS = 3
"""A run pauses after this many steps in a row without samples, or after all its steps where it has fewer."""
OUTPUTS, FEWEST_OUTPUTS = 200, 100
"""How many of the last outputs are judged, and the least number for a decision."""
REFUSED_SHARE = 0.95
"""A run pauses where at least this share of the outputs is refused."""
SCORED_SHARE = 0.01
"""Where refused outputs are trained on, a run continues if at least this share of the outputs is from episodes with a
right answer: these teach something. With a hundredth, one in twelve groups of 8 has both right and wrong episodes."""
_SHOW = "`orchestra trace RUN last --prompt` shows what the policy read and wrote"
_PAGE = "docs/your-model.md says what a model needs"


@dataclass(frozen=True)
class Complaint:
    """Reason to pause, and what a person can do."""

    message: str
    reason: Reason


@dataclass
class Vitality:
    """Tracks whether one incarnation learns.

    `steps`: the run's goal. `require_format`: refused outputs are not trained on. Unreadable outputs matter in both
    cases: siblings without any reward teach nothing, and where `minRewardStd` and `informative` do not drop them, each
    step still seems to train on something.
    """

    steps: int
    require_format: bool
    empty_steps: int = 0
    """Number of empty steps in a row until now."""
    _outputs: deque[_Output] = field(default_factory=lambda: deque[_Output](maxlen=OUTPUTS))
    _last: str = ""

    def played(self, trace: Trace) -> None:
        """Count the outputs of an accepted episode."""
        scored = (trace.components.outcome or 0) > 0
        self._outputs.extend(_Output(turn.rejection, scored) for turn in trace.turns)

    def stepped(self, traces: Sequence[Trace], *, samples: int, dropped: dict[str, int]) -> str | None:
        """Count a step with these episodes; return a message where it had nothing to train on."""
        if samples:
            self.empty_steps = 0
            return None
        self.empty_steps += 1
        self._last = _why_empty(traces, dropped)
        return f"a step had nothing to train on, so the weights did not change: {self._last}"

    def complaint(self) -> Complaint | None:
        """Return the reason to pause now, between two steps, or None."""
        if (unreadable := self._unreadable()) is not None:
            return Complaint(unreadable, Reason.OUTPUTS_UNREADABLE)
        if self.empty_steps >= max(1, min(EMPTY_STEPS, self.steps)):
            what = f"{self.empty_steps} steps in a row had nothing to train on"
            return Complaint(f"{what}. The last one: {self._last}. {_SHOW}; {_PAGE}.", Reason.NOTHING_LEARNED)
        return None

    def _unreadable(self) -> str | None:
        """Return a message where too few outputs can be read, else None."""
        outputs = len(self._outputs)
        refused = [output.rejection for output in self._outputs if output.rejection is not None]
        if outputs < FEWEST_OUTPUTS or len(refused) < REFUSED_SHARE * outputs:
            return None
        scored = sum(output.scored for output in self._outputs)
        teaching = scored >= SCORED_SHARE * outputs
        if teaching and not self.require_format:
            return None
        why = "" if teaching else f", and {scored} were from an episode with a right answer"
        also = ", train on refused outputs too (spec.algorithm.filters.requireFormat: false)" if teaching else ""
        what = f"{len(refused)} of the policy's last {outputs} outputs were refused ({_counted(refused)}){why}"
        return (
            f"{what}. {_SHOW}; check that the experts are in the prompt. If they are, teach the format"
            f" (spec.warmStart){also}, or use another model: {_PAGE}."
        )


@dataclass(frozen=True)
class _Output:
    rejection: str | None
    scored: bool
    """Whether its episode's answer was right, at least in part."""


def _why_empty(traces: Sequence[Trace], dropped: dict[str, int]) -> str:
    if not traces:
        why = ", ".join(f"{reason} {n}" for reason, n in sorted(dropped.items())) or "none finished"
        return (
            f"no group of episodes taught anything ({why}): use tasks that are solved sometimes, a larger"
            " groupSize, or looser algorithm.filters"
        )
    endings = _counted([trace.ending.value for trace in traces])
    refused = [turn.rejection for trace in traces for turn in trace.turns if turn.rejection is not None]
    outputs = sum(len(trace.turns) for trace in traces)
    why = f"; {len(refused)} of {outputs} outputs were refused ({_counted(refused)})" if refused else ""
    return (
        f"the filters left out all of its {len(traces)} episodes ({endings}{why}): a warm start teaches the format;"
        " algorithm.filters.requireFormat and requireAnswer control what is left out"
    )


def _counted(kinds: Sequence[Any]) -> str:
    return ", ".join(f"{kind} {n}" for kind, n in Counter(kinds).most_common(3))
