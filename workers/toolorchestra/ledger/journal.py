"""The journal: an append-only, fsynced file of the ledger's decisions. It is the source of truth.

A frame is a header, a head (one line of JSON) and a body: the bytes of an encoded trace, or nothing. The header has the
lengths and checksums of head and body, and its own checksum. So a flipped bit in a length is detected, and a head can
be read without its body. A second file, `journal.synced`, has the offset up to which the journal was fsynced. `flush`
writes and syncs that file before it returns, that is before anything is acknowledged or published.

Invariants:

- What was acknowledged is never cut off. If a frame below the synced offset is unreadable, JournalError names it.
- What is above that offset was never acknowledged. There, the first unreadable frame (torn, zeros, a hole left by a
  power cut) ends the journal. Opening the journal for writing removes it and the rest.
- A file without `journal.synced` (from an old release, a copy, traces of an evaluation) is judged by its content: if
  another whole frame follows a damaged one, the file is damaged; otherwise its end is torn.
- A failed write closes the writer: nothing after it counts as durable.

Frames of old releases have no version: `u32 length | u32 crc32 | payload`. They are still read, but never written. A
new frame begins with a length that no old frame has. So an old release reports the file as damaged and does not cut it.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from toolorchestra.disk import sync
from toolorchestra.ledger.errors import LedgerError

FILE_NAME = "journal.bin"
VERSION = 1
_MARK = struct.pack("<I3s", 1, b"TOJ")
_HEADER = struct.Struct("<7sBc3xIIIII")
"""Mark, version, kind, lengths of head and body, their crc32s, and the header's own crc32. The last one covers the
preceding fields and the frame's offset, so that bytes of a body are never taken for a frame."""
_OLD_HEADER = struct.Struct("<II")
_OLD_PAYLOAD = re.compile(rb"[A-Z]\{")
_SYNCED = struct.Struct("<QI")
_READ = 1 << 12
"""Bytes per read: a little more than a head, because bodies are often skipped."""
_BUFFER = 1 << 20
"""Bytes that are appended before they are written without a flush."""

_log = logging.getLogger(__name__)


class Kind(Enum):
    """The content of a frame's body."""

    ACCEPTED = b"A"
    """Trace of an accepted (scored) dispatch."""
    UNSCORED = b"U"
    """Trace of a dispatch that infrastructure ended."""
    LATE = b"L"
    """Trace of a dead dispatch: recorded, never used."""
    EVALUATED = b"E"
    """Trace of an evaluation's dispatch, scored or not. The note `evaluation` says which evaluation it was."""
    UNDECODABLE = b"X"
    """An unreadable result: the beginning of its bytes, unchanged, for people to look at. If it belongs to a dispatch,
    another frame records the decision on that dispatch."""
    NOTE = b"J"
    """No body. The head is `{"note": name, …}`; docs/ledger.md lists the names."""


@dataclass(frozen=True)
class Frame:
    """One frame. `start` is its offset, `end` the offset after it. A manifest with that `end` includes the frame."""

    kind: Kind
    head: dict[str, Any]
    body: bytes
    end: int
    start: int = 0


class JournalError(LedgerError):
    """The journal is damaged where it was acknowledged, is of another release, or cannot be written."""


class _Damaged(Exception):
    """No whole frame begins here. The message says what is wrong."""


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_frames(path: Path, *, start: int = 0, floor: int = 0, bodies: bool = True) -> Iterator[Frame]:
    """Yield all whole frames from offset `start` on, in order. Raises JournalError (see the module).

    `floor`: an offset known to be durable, as in `journal.synced`. `bodies` False: bodies are skipped and empty; they
    are checked only above the durable offset.
    """
    synced = read_synced(path)
    vouched, offset = max(floor, synced or 0), start
    with path.open("rb", buffering=_READ) if path.exists() else BytesIO() as file:
        size = file.seek(0, os.SEEK_END)
        while offset < size:
            try:
                frame = _read_frame(file, offset, size=size, body=bodies or offset >= vouched)
            except _Damaged as damage:
                if offset < vouched or (synced is None and _frame_follows(file, offset + 1, size=size)):
                    raise JournalError(
                        f"{path}: the frame at byte {offset} is damaged ({damage}), but its content had been"
                        " acknowledged; restore the file from a copy"
                    ) from damage
                return
            yield frame
            offset = frame.end
    if offset < vouched:
        raise JournalError(
            f"{path}: ends at byte {offset}, but {vouched} bytes had been acknowledged; restore the file from a copy"
        )


def read_frame(path: Path, at: int) -> Frame:
    """Return the frame that begins at offset `at`, with its body. JournalError if there is none."""
    with path.open("rb") as file:
        try:
            return _read_frame(file, at, size=os.fstat(file.fileno()).st_size, body=True)
        except _Damaged as damage:
            raise JournalError(f"{path}: the frame at byte {at} is damaged ({damage})") from damage


def _read_frame(file: BinaryIO, offset: int, *, size: int, body: bool) -> Frame:
    if file.tell() != offset:
        file.seek(offset)
    start = file.read(_HEADER.size)
    if start[: len(_MARK)] != _MARK:
        return _read_old_frame(file, offset, size=size)
    if len(start) < _HEADER.size:
        raise _Damaged("it ends within its header")
    _, version, kind, head_size, body_size, head_sum, body_sum, own_sum = _HEADER.unpack(start)
    if version == 0:  # no frame with this mark has version 0: a power cut left zeros after the mark
        raise _Damaged("zeros")
    if version != VERSION:
        raise JournalError(f"the frame at byte {offset} has version {version}; this release reads 0 and {VERSION}")
    if own_sum != _header_sum(start[:-4], offset):
        raise _Damaged("wrong checksum of its header")
    end = offset + _HEADER.size + head_size + body_size
    if end > size:
        raise _Damaged(f"the file ends {end - size} bytes early")
    head = file.read(head_size)
    if zlib.crc32(head) != head_sum:
        raise _Damaged("wrong checksum of its head")
    content = b""
    if body and body_size:
        content = file.read(body_size)
        if zlib.crc32(content) != body_sum:
            raise _Damaged("wrong checksum of its body")
    return Frame(_kind(kind, offset), json.loads(head.decode()), content, end, offset)


def _read_old_frame(file: BinaryIO, offset: int, *, size: int) -> Frame:
    """Read a frame of an old release, without a version."""
    file.seek(offset)
    header = file.read(_OLD_HEADER.size)
    if len(header) < _OLD_HEADER.size:
        raise _Damaged("it ends within its header")
    length, checksum = _OLD_HEADER.unpack(header)
    end = offset + _OLD_HEADER.size + length
    if not length:
        raise _Damaged("zeros")
    if end > size:
        raise _Damaged(f"the file ends {end - size} bytes early, or its length is wrong")
    payload = file.read(length)
    if zlib.crc32(payload) != checksum:
        raise _Damaged("wrong checksum")
    head, _, body = payload[1:].partition(b"\n")
    return Frame(_kind(payload[:1], offset), json.loads(head), body, end, offset)


_KINDS = {kind.value: kind for kind in Kind}


def _kind(letter: bytes, offset: int) -> Kind:
    try:
        return _KINDS[letter]
    except KeyError as error:
        raise JournalError(f"the frame at byte {offset} has kind {letter!r}, unknown to this release") from error


def _header_sum(header: bytes, offset: int) -> int:
    """Return the checksum of a header (given without its own checksum)."""
    return zlib.crc32(offset.to_bytes(8, "little"), zlib.crc32(header))


def _frame_follows(file: BinaryIO, offset: int, *, size: int) -> bool:
    """Return whether a whole frame begins at `offset` or later."""
    if offset >= size:
        return False
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last match that refers to it
    new = (m.start() for m in re.compile(re.escape(_MARK)).finditer(content, offset))
    old = (m.start() - _OLD_HEADER.size for m in _OLD_PAYLOAD.finditer(content, offset + _OLD_HEADER.size))
    return any(_is_frame(file, at, size=size) for places in (new, old) for at in places)


def _is_frame(file: BinaryIO, offset: int, *, size: int) -> bool:
    try:
        _read_frame(file, offset, size=size, body=True)
    except (_Damaged, JournalError):
        return False
    return True


# ── the synced offset ──────────────────────────────────────────────────────────────────────────────────────────────


def synced_path(path: Path) -> Path:
    """Return the path of a journal's synced offset."""
    return path.with_suffix(".synced")


def read_synced(path: Path) -> int | None:
    """Return the offset up to which the journal is known to be durable; None if unknown."""
    try:
        content = synced_path(path).read_bytes()
    except FileNotFoundError:
        return None
    if len(content) == _SYNCED.size:
        offset, checksum = _SYNCED.unpack(content)
        if checksum == zlib.crc32(content[:8]):
            return int(offset)
    _log.warning("%s cannot be read; the journal is checked without it", synced_path(path))
    return None


# ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Journal:
    """The writer of a journal: one process at a time. `flush` makes all frames durable; other threads may append."""

    def __init__(self, path: Path, *, end: int | None = None) -> None:
        """Open for writing after the last whole frame. `end`: its end, if the caller has just read the journal."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if end is None:
            end = 0
            for frame in read_frames(path, bodies=False):
                end = frame.end
        if path.exists() and end > path.stat().st_size:
            raise JournalError(f"{path}: ends before byte {end}, up to which it was read; restore the file from a copy")
        self._file = _open(path)
        self._file.truncate(end)
        self._mark = _open(synced_path(path))
        self._pending = bytearray()
        self._written, self._synced = end, -1
        self._broken: OSError | None = None
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self.flush()
        sync(path.parent)

    @property
    def synced(self) -> int:
        """Offset up to which the journal is durable."""
        return self._synced

    def durable(self, start: int) -> Iterator[Frame]:
        """Return the heads of the durable frames from offset `start` on."""
        end = self._synced
        return (f for f in read_frames(self.path, start=start, bodies=False) if f.end <= end)

    def append(self, kind: Kind, head: dict[str, Any], body: bytes = b"") -> None:
        """Append a frame. It is durable after the next `flush`. JournalError if it cannot be written."""
        with self._writing:
            self._pending += _encode(kind, head, body, offset=self._written + len(self._pending))
            if len(self._pending) >= _BUFFER:
                self._write()

    def note(self, name: str, **fields: Any) -> None:
        """Append a note."""
        self.append(Kind.NOTE, {"note": name, **fields})

    def flush(self) -> None:
        """Make all frames durable with fsync, so that they survive a kill or a crash. JournalError if that fails."""
        with self._syncing:
            with self._writing:
                self._write()
                end = self._written
            if end == self._synced:
                return
            try:
                os.fsync(self._file.fileno())
                offset = end.to_bytes(8, "little")
                os.pwrite(self._mark.fileno(), _SYNCED.pack(end, zlib.crc32(offset)), 0)
                os.fdatasync(self._mark.fileno())
            except OSError as error:
                raise self._fail(error) from error
            self._synced = end

    def _write(self) -> None:
        if self._broken is not None:
            raise self._fail(self._broken)
        try:
            while self._pending:
                written = os.pwrite(self._file.fileno(), self._pending, self._written)
                self._written += written
                del self._pending[:written]
        except OSError as error:
            raise self._fail(error) from error

    def _fail(self, error: OSError) -> JournalError:
        """Return the error. After a failed write or fsync the disk's content is unknown, so no later write may work."""
        self._broken = error
        return JournalError(
            f"{self.path}: cannot be written ({error.strerror}); free some space or repair the disk, then resume."
            " Everything acknowledged is in the file, and everything else will be sent again"
        )

    def close(self) -> None:
        """Flush and close. A writer that failed is only closed."""
        if self._file.closed:
            return
        try:
            if self._broken is None:
                self.flush()
        finally:
            self._file.close()
            self._mark.close()


def write_sealed(path: Path, frames: Iterable[tuple[Kind, dict[str, Any], bytes]]) -> None:
    """Write a file of frames once and atomically: under its name it is always complete. It needs no synced offset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    with draft.open("wb") as file:
        for kind, head, body in frames:
            file.write(_encode(kind, head, body, offset=file.tell()))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def read_sealed(path: Path) -> Iterator[Frame]:
    """Return the frames that `write_sealed` wrote. JournalError if one of them is damaged."""
    return read_frames(path, floor=path.stat().st_size)


def _encode(kind: Kind, head: dict[str, Any], body: bytes, *, offset: int) -> bytes:
    line = json.dumps(head, separators=(",", ":")).encode()
    sums = zlib.crc32(line), zlib.crc32(body)
    header = _HEADER.pack(_MARK, VERSION, kind.value, len(line), len(body), *sums, 0)[:-4]
    return header + _header_sum(header, offset).to_bytes(4, "little") + line + body


def _open(path: Path) -> FileIO:
    """Open a file unbuffered for reading and writing; create it if it does not exist."""
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
