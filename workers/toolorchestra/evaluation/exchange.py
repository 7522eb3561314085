"""What passed between an episode and its policy, token for token: prompts given, outputs written. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from toolorchestra.rollout.trace import Trace


@dataclass(frozen=True)
class Piece:
    """Tokens in one direction. In a chat, a later prompt is all pieces before it and then this one."""

    sample: int
    """Number of the training sample, from 1; in QA every turn is one, and starts anew."""
    written: bool
    """By the policy; else given to it."""
    token_ids: tuple[int, ...]
    versions: tuple[str, ...]
    """Of the weights that wrote it; empty of what was given."""


def exchange(trace: Trace) -> Iterator[Piece]:
    """All of it, in order; nothing of an episode that ended before the policy was asked."""
    for number, sample in enumerate(trace.samples, start=1):
        for written, segments in groupby(sample.segments, key=lambda segment: segment.trained):
            run = list(segments)
            yield Piece(
                sample=number,
                written=written,
                token_ids=tuple(token for segment in run for token in segment.token_ids),
                versions=tuple(dict.fromkeys(s.version for s in run if s.version is not None)),
            )
