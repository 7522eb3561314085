"""Validates a line of metrics.jsonl, so that readers can use it whatever was written there.

Invariants of a sound row: `step` is a whole number; every metric is a finite number; counts are in mappings of finite
numbers, which are empty if the line had none; shares are clamped to [0, 1]; a row has nothing else. A key with a wrong
value is left out: readers report it as missing, and never fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MAPPINGS = ("calls", "endings", "groups_dropped", "seconds", "trainer_seconds", "unscored")
TEXTS = ("version",)
SHARES = ("accuracy", "clip_fraction", "trainer_idle_fraction", "valid_fraction")
_MOST = 1e15
"""Numbers beyond this are taken for errors, so that arithmetic with a row stays safe."""

SoundRow = dict[str, Any]


def sound(row: object) -> SoundRow | None:
    """Return the row of a step; None if the line is not one (for example of the warm start, or damaged)."""
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
    """Yield the sound rows of steps."""
    return (found for row in rows if (found := sound(row)) is not None)


def trained(row: SoundRow) -> bool:
    """Return whether the step had anything to train on; then the row has a loss."""
    return "loss" in row


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST  # NaN compares False
