"""Families: samples with the same untrained tokens at the beginning, which a step computes once. Pure.

Siblings of a group start from one prompt. Its hidden states do not depend on what follows. So the trunk (the tokens
before the first trained one) is computed once, and every member continues it. Loss and gradients equal those of
separate sequences, with less work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolorchestra.trainer.batch import TrainSample

MIN_TRUNK = 8
"""Shortest trunk to share, in tokens: every shared trunk costs a few attention calls of its own."""


@dataclass(frozen=True)
class Family:
    """`members` are indices of samples. `trunk` is their number of common first tokens; 0 for a single sample."""

    members: tuple[int, ...]
    trunk: int = 0

    def tokens(self, lengths: Sequence[int]) -> int:
        """Return the number of tokens to compute, given the lengths of all samples."""
        return self.trunk + sum(lengths[i] - self.trunk for i in self.members)


def alone(samples: Sequence[TrainSample]) -> list[Family]:
    """Return a family for each sample, so that nothing is shared."""
    return [Family((i,)) for i in range(len(samples))]


def families(samples: Sequence[TrainSample], *, limit: int) -> list[Family]:
    """Put every sample into one family. A family has at most `limit` tokens to compute, unless it is a single sample.

    Members are sorted by length, so that branches of similar length are neighbours.
    """
    lengths = [len(sample.token_ids) for sample in samples]
    kin: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        first = next((j for j, trained in enumerate(sample.loss_mask) if trained), 0)
        kin.setdefault(tuple(sample.token_ids[:first]) if first >= MIN_TRUNK else (-1, i), []).append(i)
    return [
        family
        for head, members in kin.items()
        for family in _cut(sorted(members, key=lambda i: (lengths[i], i)), lengths, trunk=len(head), limit=limit)
    ]


def _cut(members: Sequence[int], lengths: Sequence[int], *, trunk: int, limit: int) -> list[Family]:
    """Return one family, or several if it would be longer than `limit`."""
    parts: list[list[int]] = [[]]
    used = trunk
    for i in members:
        if parts[-1] and used + lengths[i] - trunk > limit:
            parts.append([])
            used = trunk
        parts[-1].append(i)
        used += lengths[i] - trunk
    return [Family(tuple(part), trunk if len(part) > 1 else 0) for part in parts]
