"""The program that a sandbox runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """`run` and `warm` as `module:function`. Both are code of this project; only the input of `run` is untrusted.

    `run` takes one JSON value and returns one. `warm` is called once, before the first child is forked: it imports and
    prepares what every job needs.
    """

    run: str
    warm: str | None = None
