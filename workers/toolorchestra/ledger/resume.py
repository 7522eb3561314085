"""What a resume reads instead of the whole journal: a condensed history in the checkpoint, and the frames after it.

A checkpoint's manifest carries the history up to its journal offset without what is trained, dropped or set aside for
good. It is derived: where it is missing or damaged, the journal is read from its beginning (heads only), and condensed
at every checkpoint that it notes. Nothing is deleted: traces stay in the journal for `trace`, `report` and `reward`.

Invariant: what `recover` makes of a condensed history is what it makes of the whole one. That holds as long as no
later life returned behind the checkpoint (its folder was damaged for a while); then the journal is read again, and
condensed only at checkpoints that were not undone.
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
"""Where the condensed history stands in a checkpoint's job."""
SCHEMA = 1

Frames = Callable[[int], Iterable[Frame]]
"""The journal's frames from an offset on; heads are enough."""

_log = logging.getLogger(__name__)


class IndexDamaged(LedgerError, ValueError):
    """No condensed history of this release; the text says why."""


def condense(history: History, *, step: int) -> None:
    """Take out what no return to the checkpoint of `step`, or to a later one, can bring back; in place."""
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
    newest = max(history.opened, default=None)  # where the counter goes on
    history.dropped = {newest} & left if newest is not None else set()
    history.opened = {n: live for n, live in history.opened.items() if n not in left or n == newest}


def load_history(path: Path, *, step: int, job: Mapping[str, Any]) -> History:
    """The history of a journal, for a resume at the checkpoint of `step` with this part of its manifest.

    JournalError where the journal is damaged, or shorter than the checkpoint knew it.
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
    """`condensed` (of the checkpoint of `step`) with the frames after it, or all frames, condensed underway."""
    if condensed is not None:
        returned = _fold(condensed, frames(condensed.end), since=step, upto=step)
        if returned is None:
            return condensed
        _log.warning("a later life began at step %d, before this checkpoint: the whole journal is read", returned)
    upto = step
    while True:
        history = History()
        returned = _fold(history, frames(0), since=0, upto=upto)
        if returned is None:
            return history
        upto = returned


def _fold(history: History, frames: Iterable[Frame], *, since: int, upto: int) -> int | None:
    """Enter frames into a history condensed at `since`, and condense it at checkpoints up to step `upto`.

    None: done; a step: a life began there, before what is condensed already, so this history is of no use.
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
    """The condensed history of a living incarnation, brought up to date at every checkpoint from the journal."""

    frames: Frames
    history: History

    @classmethod
    def after(cls, history: History, frames: Frames) -> ResumeIndex:
        """Go on from what the ledger was opened with (which goes its own way from there)."""
        return cls(frames, deepcopy(history))

    def at(self, step: int) -> str:
        """The checkpoint of `step` is about to be written; the journal is flushed. Text for its manifest."""
        for frame in self.frames(self.history.end):
            enter(self.history, frame)
        condense(self.history, step=step)
        return encode(self.history)


# ── as text ────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _adapters() -> dict[str, tuple[bool, TypeAdapter[Any]]]:
    """Per field of a History: is it a mapping (kept as pairs, since JSON's keys are texts), and how it is written."""
    hints = get_type_hints(History)
    found: dict[str, tuple[bool, TypeAdapter[Any]]] = {}
    for name in (field.name for field in fields(History)):
        pairs = get_origin(hints[name]) is dict
        kept: Any = list[tuple[get_args(hints[name])]] if pairs else hints[name]  # type: ignore[misc]
        found[name] = pairs, TypeAdapter(kept)
    return found


def encode(history: History) -> str:
    """ASCII text of a history: every field, whatever they are by now."""
    content: dict[str, Any] = {}
    for name, (pairs, adapter) in _adapters().items():
        value = getattr(history, name)
        content[name] = adapter.dump_python(list(value.items()) if pairs else value, mode="json")
    packed = zlib.compress(json.dumps([SCHEMA, content], separators=(",", ":")).encode())
    return base64.b85encode(packed).decode()


def decode(text: str) -> History:
    """Read what `encode` wrote; IndexDamaged on anything else. zlib's checksum finds flipped bits."""
    values: dict[str, Any] = {}
    try:
        schema, content = json.loads(zlib.decompress(base64.b85decode(text)))
        if schema == SCHEMA and content.keys() == _adapters().keys():
            for name, (pairs, adapter) in _adapters().items():
                value = adapter.validate_python(content[name])
                values[name] = dict(value) if pairs else value
    except (ValueError, TypeError, AttributeError, zlib.error) as error:
        raise IndexDamaged(f"its history does not read ({type(error).__name__})") from error
    if not values:
        raise IndexDamaged("its history is of another release")
    return History(**values)
