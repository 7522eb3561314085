"""A set of dispatches in a bit each: which of a run's sendings have brought a result, however long the run is.

Invariants: it is exact, and grows by about a bit per dispatch where groups and siblings are numbered one after
another. A far-off group costs one chunk, not all numbers before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_CHUNK = 4096
"""Groups in one integer."""


@dataclass
class DispatchSet:
    """Of dispatches by their text, as `str(dispatch)` writes it."""

    rows: dict[str, int] = field(default_factory=dict[str, int])
    """`UID.SAMPLE.INCARNATION.N.CHUNK` → bit g: the dispatch of the chunk's group number g is in the set."""

    def add(self, text: str) -> None:
        row, bit = _place(text)
        self.rows[row] = self.rows.get(row, 0) | 1 << bit

    def __contains__(self, text: str) -> bool:
        row, bit = _place(text)
        return bool(self.rows.get(row, 0) >> bit & 1)

    def __len__(self) -> int:
        return sum(bits.bit_count() for bits in self.rows.values())

    def __iter__(self) -> Iterator[str]:
        """In no order that means anything."""
        for row, bits in self.rows.items():
            uid, sample, incarnation, n, chunk = row.split(".")
            for bit in range(bits.bit_length()):
                if bits >> bit & 1:
                    yield f"{uid}.{int(chunk) * _CHUNK + bit}.{sample}.{incarnation}.{n}"


def _place(text: str) -> tuple[str, int]:
    uid, group, sample, incarnation, n = text.split(".")
    chunk, bit = divmod(int(group), _CHUNK)
    return f"{uid}.{sample}.{incarnation}.{n}.{chunk}", bit
