"""Which spans are created: `off`, `default` (the tree of an episode), `per_turn` (also turns), `all`.

`toolorchestra.telemetry.setup.configure` reads the group from `TOOLORCHESTRA_SPANS`, once per process.
"""

from __future__ import annotations

from enum import IntEnum

SPANS_VARIABLE = "TOOLORCHESTRA_SPANS"


class SpanGroup(IntEnum):
    """Groups of spans. Each group includes the groups before it."""

    OFF = 0
    DEFAULT = 1
    PER_TURN = 2
    ALL = 3

    @classmethod
    def parse(cls, text: str) -> SpanGroup:
        """Return the group of that name. ValueError names the choices."""
        try:
            return cls[text.strip().upper().replace("-", "_")]
        except KeyError:
            choices = " | ".join(group.name.lower() for group in cls)
            raise ValueError(f"{SPANS_VARIABLE}={text!r}: want {choices}") from None


_enabled = SpanGroup.DEFAULT


def enable(group: SpanGroup) -> None:
    """From now on, create the spans of `group` and of the groups before it."""
    global _enabled
    _enabled = group


def enabled(group: SpanGroup) -> bool:
    return group is not SpanGroup.OFF and group <= _enabled
