"""Reads a condensed history from the checkpoint plus the later frames, so that a resume need not read all frames.

A checkpoint's manifest has the history up to its journal offset, without what is trained, dropped or set aside for
good. It is derived data. If it is missing or damaged, the journal is read from its beginning (heads only) and condensed
at every checkpoint in it. Nothing is deleted: traces stay in the journal for `trace`, `report` and `reward`.

Invariant: `recover` returns the same for a condensed history as for the whole one. One case breaks this: a later
incarnation started at an earlier checkpoint, because this one was damaged for a while. Then the journal is read again,
and condensed only at checkpoints that were not undone.
"""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from toolorchestra.ledger.errors import LedgerError
from toolorchestra.ledger.history import History, enter
from toolorchestra.ledger.journal import Frame, Kind, read_frames

KEY = "history"
"""Key of the condensed history in a checkpoint's `job`."""
SCHEMA = 1

Frames = Callable[[int], Iterable[Frame]]
"""Returns the journal's frames from an offset on; heads are enough."""

_log = logging.getLogger(__name__)


class IndexDamaged(LedgerError, ValueError):
    """The text is no condensed history of this release. The message says why."""


def condense(history: History, *, step: int) -> None:
    """Remove, in place, what no return to the checkpoint of `step` or to a later one can bring back."""
    trained = {dispatch for s, dispatches in history.steps.items() if s <= step for dispatch in dispatches}
    left = {dispatch.episode.group for dispatch in trained} | history.dropped
    settled = Counter(history.settled)
    settled["trained"] += len(trained)
    settled.update(history.fate.values())
    for dispatch in (*trained, *history.fate):
        history.accepted.pop(dispatch, None)
    history.settled = {fate: n for fate, n in settled.items() if n}
    history.fate = {}
    history.steps = {s: dispatches for s, dispatches in history.steps.items() if s > step}
    newest = max(history.opened, default=None)  # the group counter continues here
    history.dropped = {newest} & left if newest is not None else set()
    history.opened = {n: live for n, live in history.opened.items() if n not in left or n == newest}


def load_history(path: Path, *, step: int, job: Mapping[str, Any]) -> History:
    """Return the history of a journal, for a resume at the checkpoint of `step`. `job` is from its manifest.

    JournalError if the journal is damaged, or shorter than the checkpoint says.
    """
    floor = int(job.get("journal_offset", 0))

    def frames(start: int) -> Iterable[Frame]:
        return read_frames(path, start=start, floor=floor, bodies=False)

    try:
        condensed = decode(job[KEY]) if KEY in job else None
    except IndexDamaged as damage:
        _log.warning("checkpoint of step %d: %s; the whole journal is read instead", step, damage)
        condensed = None
    return resumed(frames, step=step, condensed=condensed)


def resumed(frames: Frames, *, step: int, condensed: History | None = None) -> History:
    """Return `condensed` (of the checkpoint of `step`) plus the later frames; or all frames, condensed on the way."""
    if condensed is not None:
        returned = _fold(condensed, frames(condensed.end), since=step, upto=step)
        if returned is None:
            return condensed
        _log.warning("a later incarnation began at step %d, before this checkpoint: reading all frames", returned)
    upto = step
    while True:
        history = History()
        returned = _fold(history, frames(0), since=0, upto=upto)
        if returned is None:
            return history
        upto = returned


def _fold(history: History, frames: Iterable[Frame], *, since: int, upto: int) -> int | None:
    """Add frames to a history condensed at `since`, and condense it at checkpoints up to step `upto`.

    Return None if this is done. Return a step if an incarnation began there, before a condensed part: then this history
    cannot be used.
    """
    for frame in frames:
        head = frame.head
        if frame.kind is Kind.NOTE and head["note"] == "incarnation" and head["step"] < since:
            return int(head["step"])
        enter(history, frame)
        if frame.kind is Kind.NOTE and head["note"] == "checkpoint" and since < head["step"] <= upto:
            since = int(head["step"])
            condense(history, step=since)
    return None


@dataclass
class ResumeIndex:
    """The condensed history of the current incarnation. Every checkpoint updates it from the journal."""

    frames: Frames
    history: History

    @classmethod
    def after(cls, history: History, frames: Frames) -> ResumeIndex:
        """Continue from the history that the ledger was opened with (a copy, because the ledger changes its own)."""
        return cls(frames, deepcopy(history))

    def at(self, step: int) -> str:
        """Return the text for the manifest of the checkpoint of `step`. Flush the journal before."""
        for frame in self.frames(self.history.end):
            enter(self.history, frame)
        condense(self.history, step=step)
        return encode(self.history)


# ── as text ────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _adapters() -> dict[str, tuple[bool, TypeAdapter[Any]]]:
    """Return for each field of History: whether it is a mapping (stored as pairs: JSON keys are texts), its adapter."""
    hints = get_type_hints(History)
    found: dict[str, tuple[bool, TypeAdapter[Any]]] = {}
    for name in (field.name for field in fields(History)):
        pairs = get_origin(hints[name]) is dict
        kept: Any = list[tuple[get_args(hints[name])]] if pairs else hints[name]  # type: ignore[misc]
        found[name] = pairs, TypeAdapter(kept)
    return found


def encode(history: History) -> str:
    """Return a history as ASCII text, with all its fields."""
    content: dict[str, Any] = {}
    for name, (pairs, adapter) in _adapters().items():
        value = getattr(history, name)
        content[name] = adapter.dump_python(list(value.items()) if pairs else value, mode="json")
    packed = zlib.compress(json.dumps([SCHEMA, content], separators=(",", ":")).encode())
    return base64.b85encode(packed).decode()


def decode(text: str) -> History:
    """Read the output of `encode`. IndexDamaged for anything else; zlib's checksum detects flipped bits."""
    values: dict[str, Any] = {}
    try:
        schema, content = json.loads(zlib.decompress(base64.b85decode(text)))
        if schema == SCHEMA and content.keys() == _adapters().keys():
            for name, (pairs, adapter) in _adapters().items():
                value = adapter.validate_python(content[name])
                values[name] = dict(value) if pairs else value
    except (ValueError, TypeError, AttributeError, zlib.error) as error:
        raise IndexDamaged(f"its history cannot be read ({type(error).__name__})") from error
    if not values:
        raise IndexDamaged("its history is of another release")
    return History(**values)
