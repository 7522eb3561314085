"""A suite: sources mixed by weight, split into training and held-out tasks.

Invariants: the split of a task depends on its text alone, not on order, size, seed or the other sources, so the same
problem is never in both splits even where a source draws it twice; `train_task` is a pure function of its cursor.
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
    """The tasks of a training; with `held_out_fraction` 1 those of an evaluation, and there is no training stream.

    Raises:
        SourceError: no source, a weight that is not positive, two tasks of one id, or a source without training tasks.
    """

    def __init__(self, *, sources: Sequence[WeightedSource], held_out_fraction: Decimal, seed: int) -> None:
        if not sources or any(s.weight <= 0 for s in sources):
            raise SourceError("a suite needs at least one source, each with a weight above 0")
        if not 0 <= held_out_fraction <= 1:
            raise SourceError(f"heldOutFraction is {held_out_fraction}; it lies in [0, 1]")
        self._sources = [s.source for s in sources]
        self._seed = seed
        self._block = _slots([s.weight for s in sources])
        self._train: list[list[int]] = [[] for _ in sources]
        held_out: dict[str, dict[bytes, _Place]] = defaultdict(dict)
        ids: dict[str, int] = {}
        """Numbers of tasks, counted over all sources."""
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
                    repeated.append(printable(f"{source.place(index)}: {taken}; ids are unique"))
                digest = _digest(task)
                if is_held_out(task, held_out_fraction):
                    # One place per text: a problem drawn twice would count twice in an evaluation.
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
        """Kinds of all tasks, held out or not."""
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
        """Task number `cursor` of the infinite training stream; every source is shuffled anew each epoch.

        IndexError where all tasks are held out.
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
        """The first `n` held-out tasks, topics in turn; fewer where the suite holds out fewer (`held_out_size`).

        A prefix of a longer list is the shorter one, so evaluations of two sizes are comparable.
        """
        return [self._task(place, held_out=True) for place in self._held_out[:n]]

    def _place_of(self, number: int) -> str:
        """Where the task of that number is written, counted over all sources."""
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
    """Whether a task is held out: what the task itself says (`split: heldOut`), else its text's hash decides.

    A fraction of 1 holds out everything, whatever a task says.
    """
    if fraction < 1 and "split" in task.model_fields_set:
        return task.split == "heldOut"
    return int.from_bytes(_digest(task)[:4], "big") < int(fraction * _BUCKETS)


def _digest(task: Task) -> bytes:
    text = "\0".join((task.context or "", task.instruction))
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def _slots(weights: Sequence[Decimal]) -> list[int]:
    """Source numbers of one block of the stream, in exact proportion to the weights (rounded to 1/1000 of the sum)."""
    total = sum(weights)
    shares = [max(Fraction(w / total).limit_denominator(1000), Fraction(1, 1000)) for w in weights]
    size = lcm(*(share.denominator for share in shares))
    if size > 10_000:
        size = 1000
    bounds = list(accumulate(max(1, round(share * size)) for share in shares))
    return [bisect_right(bounds, slot) for slot in range(bounds[-1])]


def _by_turns(topics: Sequence[Sequence[_Place]]) -> list[_Place]:
    """One of each topic, then the next of each, until all are used."""
    return [place for row in zip_longest(*topics) for place in row if place is not None]
