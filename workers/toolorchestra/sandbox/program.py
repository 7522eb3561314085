"""What a sandbox runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """`run` and `warm` as `module:function`. Both are the project's own; only the values given to `run` are untrusted.

    `run` takes one JSON value and returns one; `warm` is called once, before the first child is forked: imports, and
    whatever else every job needs.
    """

    run: str
    warm: str | None = None
