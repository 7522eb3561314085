"""Whether a run still learns, by what its policy writes and what its steps train on, and when to pause because it does
not.

A run that trains on nothing costs time and money and ends as if all were well. Decisions only: the controller tells
what happened (`played`, `stepped`), and asks between two steps (`complaint`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.api.conditions import Reason
from toolorchestra.rollout.trace import Trace

EMPTY_STEPS = 3
"""Steps in a row without anything to train on, after which a run pauses; all of them, where a run has fewer."""
OUTPUTS, FEWEST_OUTPUTS = 200, 100
"""The last outputs that are judged, and how many there must be."""
REFUSED_SHARE = 0.95
"""From this share of refused outputs on a run pauses."""
SCORED_SHARE = 0.01
"""Where refused outputs are trained on, a run goes on while so many outputs are of an episode with a right answer:
these teach something. With a hundredth, one in twelve groups of 8 tells right from wrong."""
_SHOW = "`orchestra trace RUN last --prompt` shows what the policy was shown"
_PAGE = "docs/your-model.md says what a model needs"


@dataclass(frozen=True)
class Complaint:
    """Why to pause, and what a person can do."""

    message: str
    reason: Reason


@dataclass
class Vitality:
    """Of one incarnation. `steps`: the run's goal; `require_format`: refused outputs are left out of the training.

    Outputs that cannot be read are a sign whether or not they are trained on: siblings that all earn nothing teach
    nothing, and where `minRewardStd` and `informative` do not drop them, each step looks as if it trained on something.
    """

    steps: int
    require_format: bool
    empty_steps: int = 0
    """In a row, up to now."""
    _outputs: deque[_Output] = field(default_factory=lambda: deque[_Output](maxlen=OUTPUTS))
    _last: str = ""

    def played(self, trace: Trace) -> None:
        """An accepted episode of the policy."""
        scored = (trace.components.outcome or 0) > 0
        self._outputs.extend(_Output(turn.rejection, scored) for turn in trace.turns)

    def stepped(self, traces: Sequence[Trace], *, samples: int, dropped: dict[str, int]) -> str | None:
        """A step was made of these episodes; what to say of it where it had nothing to train on."""
        if samples:
            self.empty_steps = 0
            return None
        self.empty_steps += 1
        self._last = _why_empty(traces, dropped)
        return f"a step had nothing to train on, and the weights stay: {self._last}"

    def complaint(self) -> Complaint | None:
        """Whether to pause now, between two steps."""
        if (unreadable := self._unreadable()) is not None:
            return Complaint(unreadable, Reason.OUTPUTS_UNREADABLE)
        if self.empty_steps >= max(1, min(EMPTY_STEPS, self.steps)):
            what = f"{self.empty_steps} steps in a row had nothing to train on"
            return Complaint(f"{what}. The last one: {self._last}. {_SHOW}; {_PAGE}.", Reason.NOTHING_LEARNED)
        return None

    def _unreadable(self) -> str | None:
        """What to say where too few outputs can be read to go on."""
        outputs = len(self._outputs)
        refused = [output.rejection for output in self._outputs if output.rejection is not None]
        if outputs < FEWEST_OUTPUTS or len(refused) < REFUSED_SHARE * outputs:
            return None
        scored = sum(output.scored for output in self._outputs)
        teaching = scored >= SCORED_SHARE * outputs
        if teaching and not self.require_format:
            return None
        why = "" if teaching else f", and {scored} were of an episode with a right answer"
        also = ", train on refused outputs too (spec.algorithm.filters.requireFormat: false)" if teaching else ""
        what = f"{len(refused)} of the policy's last {outputs} outputs were refused ({_counted(refused)}){why}"
        return (
            f"{what}. {_SHOW}; are the experts in it? Then teach it the form (spec.warmStart){also}, or take another"
            f" model: {_PAGE}."
        )


@dataclass(frozen=True)
class _Output:
    rejection: str | None
    scored: bool
    """Its episode's answer was right, in part at least."""


def _why_empty(traces: Sequence[Trace], dropped: dict[str, int]) -> str:
    if not traces:
        why = ", ".join(f"{reason} {n}" for reason, n in sorted(dropped.items())) or "none finished"
        return (
            f"no group of episodes taught anything ({why}): tasks that are neither always nor never solved, a larger"
            " groupSize, or looser algorithm.filters would"
        )
    endings = _counted([trace.ending.value for trace in traces])
    refused = [turn.rejection for trace in traces for turn in trace.turns if turn.rejection is not None]
    outputs = sum(len(trace.turns) for trace in traces)
    why = f"; {len(refused)} of {outputs} outputs were refused ({_counted(refused)})" if refused else ""
    return (
        f"the filters left out all of its {len(traces)} episodes ({endings}{why}): a warm start teaches the form, and"
        " algorithm.filters.requireFormat and requireAnswer say what is left out"
    )


def _counted(kinds: Sequence[Any]) -> str:
    return ", ".join(f"{kind} {n}" for kind, n in Counter(kinds).most_common(3))
