"""A suite: sources mixed by weight, split into training and held-out tasks.

Invariants: the split of a task depends only on its text, not on order, size, seed or other sources. So the same problem
is never in both splits, even if a source has it twice. `train_task` is a pure function of its cursor.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, zip_longest
from math import lcm

from toolorchestra.api.mistakes import listed
from toolorchestra.tasks.source import SourceError, TaskSource, printable
from toolorchestra.tasks.task import Task, TaskKind

_BUCKETS = 1 << 32


@dataclass(frozen=True)
class WeightedSource:
    """A source and its share of the training stream, relative to the others' weights."""

    source: TaskSource
    weight: Decimal = Decimal(1)


@dataclass(frozen=True)
class _Place:
    source: int
    index: int


class Suite:
    """The tasks of a training. With `held_out_fraction` 1: the tasks of an evaluation, without a training stream.

    Raises:
        SourceError: no source, a weight that is not positive, a repeated task id, or a source without training tasks.
    """

    def __init__(self, *, sources: Sequence[WeightedSource], held_out_fraction: Decimal, seed: int) -> None:
        if not sources or any(s.weight <= 0 for s in sources):
            raise SourceError("a suite needs at least one source, each with a weight above 0")
        if not 0 <= held_out_fraction <= 1:
            raise SourceError(f"heldOutFraction is {held_out_fraction}; it must be in [0, 1]")
        self._sources = [s.source for s in sources]
        self._seed = seed
        self._block = _slots([s.weight for s in sources])
        self._train: list[list[int]] = [[] for _ in sources]
        held_out: dict[str, dict[bytes, _Place]] = defaultdict(dict)
        ids: dict[str, int] = {}
        """Task id → number of the task, counted over all sources."""
        kinds: set[TaskKind] = set()
        number = -1
        repeated: list[str] = []
        for which, source in enumerate(self._sources):
            for index in range(len(source)):
                task = source.task(index)
                number += 1
                kinds.add(task.kind)
                if (first := ids.setdefault(task.id, number)) != number:
                    taken = f"the id {task.id!r} is already that of {self._place_of(first)}"
                    repeated.append(printable(f"{source.place(index)}: {taken}; ids must be unique"))
                digest = _digest(task)
                if is_held_out(task, held_out_fraction):
                    # One place per text: a problem that a source has twice would count twice in an evaluation.
                    held_out[task.topic].setdefault(digest, _Place(which, index))
                else:
                    self._train[which].append(index)
        if repeated:
            raise SourceError("\n".join(listed(repeated)))
        empty = [s.name for s, train in zip(self._sources, self._train, strict=True) if not train]
        if empty and held_out_fraction < 1:
            raise SourceError(
                f"no training task is left in source {', '.join(empty)}: lower heldOutFraction, or add tasks"
            )
        self.kinds = frozenset(kinds)
        """Kinds of all tasks, of both splits."""
        self._held_out = _by_turns([[topic[d] for d in sorted(topic)] for _, topic in sorted(held_out.items())])
        self._order = lru_cache(maxsize=2 * len(self._sources))(self._epoch_order)
        self._mix = lru_cache(maxsize=4)(self._block_order)

    @property
    def train_size(self) -> int:
        """Tasks in one epoch of all sources."""
        return sum(len(train) for train in self._train)

    @property
    def held_out_size(self) -> int:
        """Distinct held-out tasks."""
        return len(self._held_out)

    def train_task(self, cursor: int) -> Task:
        """Return task number `cursor` of the infinite training stream. Every source is shuffled again in each epoch.

        IndexError: all tasks are held out.
        """
        if not self.train_size:
            raise IndexError("all tasks of this suite are held out")
        block, slot = divmod(cursor, len(self._block))
        mix = self._mix(block)
        which = mix[slot]
        drawn = block * self._block.count(which) + mix[:slot].count(which)
        epoch, position = divmod(drawn, len(self._train[which]))
        return self._task(_Place(which, self._order(which, epoch)[position]), held_out=False)

    def held_out(self, n: int) -> list[Task]:
        """Return the first `n` held-out tasks, one topic after the other in turn; fewer if there are fewer.

        A shorter list is a prefix of a longer one, so evaluations of two sizes are comparable.
        """
        return [self._task(place, held_out=True) for place in self._held_out[:n]]

    def _place_of(self, number: int) -> str:
        """Return where the task of that number is defined. The number counts over all sources."""
        for source in self._sources:
            if number < len(source):
                return source.place(number)
            number -= len(source)
        raise IndexError(number)

    def _task(self, place: _Place, *, held_out: bool) -> Task:
        task = self._sources[place.source].task(place.index)
        return task.model_copy(update={"split": "heldOut" if held_out else "train"})

    def _epoch_order(self, which: int, epoch: int) -> list[int]:
        order = list(self._train[which])
        random.Random(f"{self._seed}/{self._sources[which].name}/{epoch}").shuffle(order)
        return order

    def _block_order(self, block: int) -> list[int]:
        order = list(self._block)
        random.Random(f"{self._seed}/mix/{block}").shuffle(order)
        return order


def is_held_out(task: Task, fraction: Decimal) -> bool:
    """Return whether a task is held out: by its own `split` if it has one, else by the hash of its text.

    A fraction of 1 holds out every task, whatever its `split`.
    """
    if fraction < 1 and "split" in task.model_fields_set:
        return task.split == "heldOut"
    return int.from_bytes(_digest(task)[:4], "big") < int(fraction * _BUCKETS)


def _digest(task: Task) -> bytes:
    text = "\0".join((task.context or "", task.instruction))
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def _slots(weights: Sequence[Decimal]) -> list[int]:
    """Return the source numbers of one block of the stream, in proportion to the weights (to 1/1000 of the sum)."""
    total = sum(weights)
    shares = [max(Fraction(w / total).limit_denominator(1000), Fraction(1, 1000)) for w in weights]
    size = lcm(*(share.denominator for share in shares))
    if size > 10_000:
        size = 1000
    bounds = list(accumulate(max(1, round(share * size)) for share in shares))
    return [bisect_right(bounds, slot) for slot in range(bounds[-1])]


def _by_turns(topics: Sequence[Sequence[_Place]]) -> list[_Place]:
    """Return the first task of each topic, then the second of each, until all are used."""
    return [place for row in zip_longest(*topics) for place in row if place is not None]
