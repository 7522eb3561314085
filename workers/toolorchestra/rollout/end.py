"""The end of an episode, as a value that its steps return."""

from __future__ import annotations

from dataclasses import dataclass

from toolorchestra.rollout.trace import Ending


@dataclass(frozen=True)
class End:
    """How an episode ended. `answer` is for the grader (ANSWERED only), `detail` for a person, `expert` is the pool
    that caused it."""

    ending: Ending
    detail: str = ""
    answer: str | None = None
    expert: str | None = None
