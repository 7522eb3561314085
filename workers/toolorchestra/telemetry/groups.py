"""Which spans are made at all: `off`, `default` (the tree of an episode), `per_turn` (turns too), `all`.

From `TOOLORCHESTRA_SPANS`, read once per process by `toolorchestra.telemetry.setup.configure`, or set here.
"""

from __future__ import annotations

from enum import IntEnum

SPANS_VARIABLE = "TOOLORCHESTRA_SPANS"


class SpanGroup(IntEnum):
    """Each includes the ones before it."""

    OFF = 0
    DEFAULT = 1
    PER_TURN = 2
    ALL = 3

    @classmethod
    def parse(cls, text: str) -> SpanGroup:
        """ValueError names the choices."""
        try:
            return cls[text.strip().upper().replace("-", "_")]
        except KeyError:
            choices = " | ".join(group.name.lower() for group in cls)
            raise ValueError(f"{SPANS_VARIABLE}={text!r}: want {choices}") from None


_enabled = SpanGroup.DEFAULT


def enable(group: SpanGroup) -> None:
    """Make the spans of `group` and below, from now on."""
    global _enabled
    _enabled = group


def enabled(group: SpanGroup) -> bool:
    return group is not SpanGroup.OFF and group <= _enabled
