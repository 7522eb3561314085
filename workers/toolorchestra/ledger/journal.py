"""The journal: an append-only, fsynced file of what the ledger decided. It is the truth; everything else is derived.

A frame is a header, a head (one line of JSON) and a body: the codec's bytes of a trace, or nothing. The header has the
lengths and checksums of both and a checksum of its own, so that a flipped bit in a length is seen, and a head can be
read without its body. Beside the file lies `journal.synced`: up to which offset it was fsynced, written and synced
itself before `flush` returns, that is before anything is acknowledged or published.

Invariants:

- What was acknowledged is never cut off: where a frame below the synced offset does not read, JournalError says which.
- What lies above it was acknowledged to nobody: there the first frame that does not read (torn, zeros, a hole that a
  power cut left inside a batch) ends the journal, and opening it for writing cuts it off.
- A file without its `synced` (one of before, a copy, traces of an evaluation) is judged by what follows: another whole
  frame behind a damaged one is damage, anything else a torn end.
- A write that fails closes the writer: nothing after it is believed to be durable.

Frames of before had no version: `u32 length | u32 crc32 | payload`. They are read as they are and never written. A new
frame begins with a length that no old one has, so that the old code calls the file damaged instead of cutting it.
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
"""Mark, version, kind, lengths of head and body, their crc32s, and the header's: over what is before it and the
frame's offset, so that no bytes of a body are ever taken for a frame."""
_OLD_HEADER = struct.Struct("<II")
_OLD_PAYLOAD = re.compile(rb"[A-Z]\{")
_SYNCED = struct.Struct("<QI")
_READ = 1 << 12
"""Bytes read at a time: little more than a head, where bodies are skipped."""
_BUFFER = 1 << 20
"""Bytes appended before they are written without a flush."""

_log = logging.getLogger(__name__)


class Kind(Enum):
    """What a frame's body is."""

    ACCEPTED = b"A"
    """Trace of an accepted (scored) dispatch."""
    UNSCORED = b"U"
    """Trace of a dispatch that infrastructure ended."""
    LATE = b"L"
    """Trace of a dead dispatch: recorded, never used."""
    EVALUATED = b"E"
    """Trace of an evaluation's dispatch, scored or not; the note `evaluation` says which evaluation it was."""
    UNDECODABLE = b"X"
    """What came as a result and is none: the beginning of its bytes, as they came, for people to look at. Where it
    came under a dispatch, a frame of its own says what became of that."""
    NOTE = b"J"
    """No body; the head is `{"note": name, …}`; docs/ledger.md lists the names."""


@dataclass(frozen=True)
class Frame:
    """`end` is the offset behind the frame: a manifest that names it covers the frame. `start` finds it again."""

    kind: Kind
    head: dict[str, Any]
    body: bytes
    end: int
    start: int = 0


class JournalError(LedgerError):
    """The journal is damaged where it was acknowledged, of another release, or cannot be written."""


class _Damaged(Exception):
    """No whole frame begins here; the text says what is wrong with it."""


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_frames(path: Path, *, start: int = 0, floor: int = 0, bodies: bool = True) -> Iterator[Frame]:
    """All whole frames from offset `start`, in order; JournalError as the module says.

    `floor`: an offset that is known to have been durable, as `journal.synced` knows one. `bodies` False: bodies are
    skipped, empty in the frames, and checked only where nobody has ever vouched for them.
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
                        f"{path}: the frame at byte {offset} is damaged ({damage}), and what it held had been"
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
    """The frame that begins at offset `at`, with its body; JournalError where none does."""
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
    if version == 0:  # frames of version 0 had no mark: a power cut left zeros after ours
        raise _Damaged("zeros")
    if version != VERSION:
        raise JournalError(f"the frame at byte {offset} has version {version}; this release reads 0 and {VERSION}")
    if own_sum != _header_sum(start[:-4], offset):
        raise _Damaged("its header has another checksum")
    end = offset + _HEADER.size + head_size + body_size
    if end > size:
        raise _Damaged(f"the file ends {end - size} bytes early")
    head = file.read(head_size)
    if zlib.crc32(head) != head_sum:
        raise _Damaged("its head has another checksum")
    content = b""
    if body and body_size:
        content = file.read(body_size)
        if zlib.crc32(content) != body_sum:
            raise _Damaged("its body has another checksum")
    return Frame(_kind(kind, offset), json.loads(head.decode()), content, end, offset)


def _read_old_frame(file: BinaryIO, offset: int, *, size: int) -> Frame:
    """A frame of before frames had a version."""
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
        raise _Damaged("another checksum")
    head, _, body = payload[1:].partition(b"\n")
    return Frame(_kind(payload[:1], offset), json.loads(head), body, end, offset)


_KINDS = {kind.value: kind for kind in Kind}


def _kind(letter: bytes, offset: int) -> Kind:
    try:
        return _KINDS[letter]
    except KeyError as error:
        raise JournalError(f"the frame at byte {offset} is of kind {letter!r}, which this release lacks") from error


def _header_sum(header: bytes, offset: int) -> int:
    """Of a header without its own checksum."""
    return zlib.crc32(offset.to_bytes(8, "little"), zlib.crc32(header))


def _frame_follows(file: BinaryIO, offset: int, *, size: int) -> bool:
    """Does a whole frame begin anywhere from `offset` on?"""
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
    """Where a journal's synced offset lies."""
    return path.with_suffix(".synced")


def read_synced(path: Path) -> int | None:
    """Up to which offset the journal is known to be durable; None where nothing says so."""
    try:
        content = synced_path(path).read_bytes()
    except FileNotFoundError:
        return None
    if len(content) == _SYNCED.size:
        offset, checksum = _SYNCED.unpack(content)
        if checksum == zlib.crc32(content[:8]):
            return int(offset)
    _log.warning("%s does not read; the journal is judged without it", synced_path(path))
    return None


# ── writing ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Journal:
    """The writer. One process at a time; `flush` makes everything appended durable. Threads may append meanwhile."""

    def __init__(self, path: Path, *, end: int | None = None) -> None:
        """Open for writing behind the last whole frame. `end`: where that is, if the caller has just read it."""
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
        """Bytes that are durable."""
        return self._synced

    def durable(self, start: int) -> Iterator[Frame]:
        """The heads of the durable frames from offset `start` on."""
        end = self._synced
        return (f for f in read_frames(self.path, start=start, bodies=False) if f.end <= end)

    def append(self, kind: Kind, head: dict[str, Any], body: bytes = b"") -> None:
        """Add a frame; durable after the next `flush`. JournalError: it cannot be written."""
        with self._writing:
            self._pending += _encode(kind, head, body, offset=self._written + len(self._pending))
            if len(self._pending) >= _BUFFER:
                self._write()

    def note(self, name: str, **fields: Any) -> None:
        """Add a note."""
        self.append(Kind.NOTE, {"note": name, **fields})

    def flush(self) -> None:
        """fsync: what was appended survives a kill of process and machine, and is known to. JournalError: it is not."""
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
        """After a failed write or fsync nobody knows what the disk has: no further one may seem to work."""
        self._broken = error
        return JournalError(
            f"{self.path}: cannot be written ({error.strerror}); free some space or mend the disk, then resume."
            " What had been acknowledged is there, and everything else comes again"
        )

    def close(self) -> None:
        """Flush and close; a writer that failed only closes."""
        if self._file.closed:
            return
        try:
            if self._broken is None:
                self.flush()
        finally:
            self._file.close()
            self._mark.close()


def write_sealed(path: Path, frames: Iterable[tuple[Kind, dict[str, Any], bytes]]) -> None:
    """A file of frames that is written once: under its name it is whole. (It needs no synced offset.)"""
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
    """The frames of `write_sealed`; JournalError where any of them is damaged."""
    return read_frames(path, floor=path.stat().st_size)


def _encode(kind: Kind, head: dict[str, Any], body: bytes, *, offset: int) -> bytes:
    line = json.dumps(head, separators=(",", ":")).encode()
    sums = zlib.crc32(line), zlib.crc32(body)
    header = _HEADER.pack(_MARK, VERSION, kind.value, len(line), len(body), *sums, 0)[:-4]
    return header + _header_sum(header, offset).to_bytes(4, "little") + line + body


def _open(path: Path) -> FileIO:
    """Unbuffered, for reading and writing; made where it is not there."""
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
