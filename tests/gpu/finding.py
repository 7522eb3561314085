"""What a check finds: figures with their bars, longer texts beside them, or why it could not be made. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number, or one word, and the bars that it is held against; `unit` is for readers."""

    name: str
    value: float | str | None
    """None: not measured, which misses every bar."""
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """None where there is no bar."""
        if self.at_least is None and self.at_most is None:
            return None
        if not isinstance(self.value, (int, float)) or not math.isfinite(self.value):
            return False
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    @property
    def bar(self) -> str:
        """`≥ 0.3`, `≤ 4`, `≥ 0.9, ≤ 1.1`; empty where there is none."""
        ends = ((sign, end) for sign, end in (("≥", self.at_least), ("≤", self.at_most)) if end is not None)
        return ", ".join(f"{sign} {shown(end)}" for sign, end in ends)

    def line(self) -> str:
        """For a terminal: `MFU 0.31 (bar ≥ 0.3)`; a missed bar is marked."""
        said = f"{self.name} {shown(self.value)}{' ' if self.unit else ''}{self.unit}"
        return said if self.met is None else f"{said} ({'bar' if self.met else 'MISSED bar'} {self.bar})"


@dataclass(frozen=True, kw_only=True)
class Note:
    """A longer text: a table of kernels, the tail of a log."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Skip:
    """The rest of the check is left out, and why."""

    reason: str


Finding = Figure | Note | Skip
_KINDS: Mapping[str, type[Finding]] = {"figure": Figure, "note": Note, "skip": Skip}


def encode(finding: Finding) -> dict[str, Any]:
    """As a JSON object; a number that JSON does not know becomes a word."""
    kind = next(name for name, of in _KINDS.items() if isinstance(finding, of))
    fields = {
        name: str(v) if isinstance(v, float) and not math.isfinite(v) else v for name, v in asdict(finding).items()
    }
    return {"kind": kind} | fields


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def decode(row: Mapping[str, Any]) -> Finding:
    """What `encode` wrote."""
    return _KINDS[row["kind"]](**{name: value for name, value in row.items() if name != "kind"})


def shown(value: float | str | None) -> str:
    """A value for a reader: whole numbers with separators, others with three or four digits that count."""
    if value is None:
        return "not measured"
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}"
