"""One line of metrics.jsonl as its readers take it: whatever was written there, what comes out of here breaks nobody.

Invariants of a sound row: `step` is a whole number; every figure is a finite number; every count lies in a mapping of
finite numbers, which is there, empty, where the line had none; shares lie in [0, 1]; nothing else is in it. A key that
a line lacks, or holds as something else, is left out: readers say so, they never fail on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MAPPINGS = ("calls", "endings", "groups_dropped", "seconds", "trainer_seconds", "unscored")
TEXTS = ("version",)
SHARES = ("accuracy", "clip_fraction", "trainer_idle_fraction", "valid_fraction")
_MOST = 1e15
"""Figures beyond it are broken, and arithmetic with them would be."""

SoundRow = dict[str, Any]


def sound(row: object) -> SoundRow | None:
    """The step's row; None where the line is none of a step (one of the warm start, say, or damaged)."""
    if not isinstance(row, Mapping) or not _is_step(row.get("step")):
        return None
    found: SoundRow = {name: {} for name in MAPPINGS}
    for key, value in row.items():
        if key in MAPPINGS:
            if isinstance(value, Mapping):
                found[key] = {str(name): n for name, n in value.items() if _is_figure(n)}
        elif key in TEXTS:
            if isinstance(value, str):
                found[key] = value
        elif _is_figure(value):
            found[str(key)] = min(1.0, max(0.0, value)) if key in SHARES else value
    return found


def sound_rows(rows: Iterable[object]) -> Iterator[SoundRow]:
    """Those of steps."""
    return (found for row in rows if (found := sound(row)) is not None)


def trained(row: SoundRow) -> bool:
    """Whether the step had anything to train on: it then has a loss."""
    return "loss" in row


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST  # not NaN either
