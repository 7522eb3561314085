"""The tokens exchanged between an episode and its policy: prompts given, outputs written. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from toolorchestra.rollout.trace import Trace


@dataclass(frozen=True)
class Piece:
    """Tokens in one direction. In a chat, the full prompt is all earlier pieces and then this one."""

    sample: int
    """Number of the training sample, from 1; in QA every turn is a sample of its own."""
    written: bool
    """Whether the policy wrote the tokens; otherwise they were given to it."""
    token_ids: tuple[int, ...]
    versions: tuple[str, ...]
    """Versions of the weights that wrote the tokens; empty for given tokens."""


def exchange(trace: Trace) -> Iterator[Piece]:
    """Yield all pieces in order; none for an episode that ended before the policy was asked."""
    for number, sample in enumerate(trace.samples, start=1):
        for written, segments in groupby(sample.segments, key=lambda segment: segment.trained):
            run = list(segments)
            yield Piece(
                sample=number,
                written=written,
                token_ids=tuple(token for segment in run for token in segment.token_ids),
                versions=tuple(dict.fromkeys(s.version for s in run if s.version is not None)),
            )
