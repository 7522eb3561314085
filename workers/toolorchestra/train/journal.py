"""The journal: an append-only, fsynced file of what the ledger decided. It is the truth; everything else is derived.

A frame is `u32 length | u32 crc32 | payload` (little-endian); a payload is one byte of kind, one line of JSON (the
head) and a body: the codec's bytes of a trace, or nothing. A torn last frame (the writer was killed) is cut off on
opening;
a bad frame before the end is corruption and raises.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

_HEADER = struct.Struct("<II")
FILE_NAME = "journal.bin"


class Kind(Enum):
    """What a frame's body is."""

    ACCEPTED = b"A"
    """Trace of an accepted (scored) issue."""
    UNSCORED = b"U"
    """Trace of an issue that infrastructure ended."""
    LATE = b"L"
    """Trace of a dead issue: recorded, never used."""
    EVALUATED = b"E"
    """Trace of an evaluation's issue, scored or not; the note `evaluation` says which evaluation it was."""
    NOTE = b"J"
    """No body; the head is `{"note": name, …}`; docs/ledger.md lists the names."""


@dataclass(frozen=True)
class Frame:
    """`end` is the offset behind the frame: a manifest that names it covers the frame."""

    kind: Kind
    head: dict[str, Any]
    body: bytes
    end: int


class JournalError(Exception):
    """The journal is damaged before its end."""


def read_frames(path: Path) -> Iterator[Frame]:
    """All whole frames in order; a torn tail ends the iteration, damage before the end raises JournalError."""
    if not path.exists():
        return
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while (frame := _read_frame(file, size=size, path=path)) is not None:
            yield frame


def _read_frame(file: BinaryIO, *, size: int, path: Path) -> Frame | None:
    start = file.tell()
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    length, checksum = _HEADER.unpack(header)
    payload = file.read(length)
    if len(payload) < length:
        return None
    if zlib.crc32(payload) != checksum:
        if file.tell() == size:
            return None
        raise JournalError(f"{path}: the frame at byte {start} is damaged; restore the file from a copy")
    head, _, body = payload[1:].partition(b"\n")
    return Frame(Kind(payload[:1]), json.loads(head), body, file.tell())


class Journal:
    """The writer. One process at a time; `flush` makes everything appended durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        end = 0
        for frame in read_frames(path):
            end = frame.end
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(end)
        self._file.seek(end)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def append(self, kind: Kind, head: dict[str, Any], body: bytes = b"") -> None:
        """Add a frame; durable after the next `flush`."""
        payload = kind.value + json.dumps(head, separators=(",", ":")).encode() + b"\n" + body
        self._file.write(_HEADER.pack(len(payload), zlib.crc32(payload)) + payload)

    def note(self, name: str, **fields: Any) -> None:
        """Add a note."""
        self.append(Kind.NOTE, {"note": name, **fields})

    def flush(self) -> None:
        """fsync: what was appended survives a kill of process and machine."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()
