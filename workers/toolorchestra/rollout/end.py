"""The end of an episode, as the value that its steps hand back."""

from __future__ import annotations

from dataclasses import dataclass

from toolorchestra.rollout.trace import Ending


@dataclass(frozen=True)
class End:
    """`answer` is what the grader judges (ANSWERED only); `detail` is for a person; `expert` is whose outage it was."""

    ending: Ending
    detail: str = ""
    answer: str | None = None
    expert: str | None = None
