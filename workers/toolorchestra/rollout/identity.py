"""Identifiers of the ledger: training, group, episode, dispatch (ledger.md, "Who is who").

A *dispatch* is one sending of an episode. Its text is the message id of the order and of the result. So two results of
one dispatch count as one, and a new dispatch of the same episode is never taken for a duplicate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ISSUE = re.compile(r"([^.]*)\.([0-9]{1,18})\.([0-9]{1,18})\.([0-9]{1,18})\.([0-9]{1,18})")


@dataclass(frozen=True, order=True)
class EpisodeId:
    """One attempt of the orchestrator at a task: sibling `sample` of group `group` of the training `uid`."""

    uid: str
    group: int
    sample: int

    def __str__(self) -> str:
        return f"{self.uid}.{self.group}.{self.sample}"


@dataclass(frozen=True, order=True)
class Dispatch:
    """Sending number `n` of an episode by `incarnation`. At most one dispatch of an episode is live."""

    episode: EpisodeId
    incarnation: int
    n: int

    def __str__(self) -> str:
        return f"{self.episode}.{self.incarnation}.{self.n}"

    @classmethod
    def parse(cls, text: str) -> Dispatch:
        """Read the output of `str(dispatch)`. ValueError for anything else."""
        found = _ISSUE.fullmatch(text)
        if found is None:
            raise ValueError(f"not a dispatch: {text!r} (want UID.GROUP.SAMPLE.INCARNATION.N)")
        uid, group, sample, incarnation, n = found.groups()
        return cls(EpisodeId(uid, int(group), int(sample)), int(incarnation), int(n))
