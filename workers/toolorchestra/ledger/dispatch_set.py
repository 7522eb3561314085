"""A set of dispatches with one bit each: it stores which dispatches of a run have brought a result.

Invariants: the set is exact. If groups and siblings have consecutive numbers, it needs about one bit per dispatch. A
large group number costs one chunk, not a bit for every smaller number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_CHUNK = 4096
"""Number of groups in one integer."""


@dataclass
class DispatchSet:
    """Dispatches, identified by the text of `str(dispatch)`."""

    rows: dict[str, int] = field(default_factory=dict[str, int])
    """`UID.SAMPLE.INCARNATION.N.CHUNK` → integer; bit g: the dispatch of group g of the chunk is in the set."""

    def add(self, text: str) -> None:
        row, bit = _place(text)
        self.rows[row] = self.rows.get(row, 0) | 1 << bit

    def __contains__(self, text: str) -> bool:
        row, bit = _place(text)
        return bool(self.rows.get(row, 0) >> bit & 1)

    def __len__(self) -> int:
        return sum(bits.bit_count() for bits in self.rows.values())

    def __iter__(self) -> Iterator[str]:
        """Iterate in no defined order."""
        for row, bits in self.rows.items():
            uid, sample, incarnation, n, chunk = row.split(".")
            for bit in range(bits.bit_length()):
                if bits >> bit & 1:
                    yield f"{uid}.{int(chunk) * _CHUNK + bit}.{sample}.{incarnation}.{n}"


def _place(text: str) -> tuple[str, int]:
    uid, group, sample, incarnation, n = text.split(".")
    chunk, bit = divmod(int(group), _CHUNK)
    return f"{uid}.{sample}.{incarnation}.{n}.{chunk}", bit
