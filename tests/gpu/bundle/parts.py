"""A bundle as files: a tar, compressed in streams of xz, cut into parts, and the manifest that describes them.

The streams one behind the other are one valid `.xz` file, so `cat NAME-*.part | tar -xJ` unpacks a bundle by hand;
there are several so that several cores work on them, here and on the target.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

STREAM_BYTES = 64 << 20  # of the tar, in one stream
# Fast, looking back over the whole stream: libraries of GPU code repeat themselves far apart, and a slower search gains
# little there (measured on FlashAttention 3: 5.1 MB of 67 for 4.6 s of CPU at preset 1, 5.0 MB for 10.5 s at 3).
FAR = {"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": STREAM_BYTES}
NEAR = {"id": lzma.FILTER_LZMA2, "preset": 0}  # for what does not compress
TIME = 315532800  # 1980-01-01: every member's, so that equal inputs give equal parts


@dataclass(frozen=True)
class Member:
    """One file of a bundle: where it goes, its bytes, and whether it is a program."""

    path: str
    data: bytes
    program: bool = False


@dataclass(frozen=True)
class Part:
    """One file to carry: `size` in bytes, `sha256` in hex."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `unpack.py` needs to know of the bundle `name`; the same fields as in its JSON file."""

    name: str
    inputs: str  # digest of what it was built from
    python: str | None  # "3.12": the only Python it runs with; None: any
    unpacked: int  # bytes of the tar
    streams: tuple[int, ...]  # bytes of each xz stream, in order
    parts: tuple[Part, ...]
    provided: tuple[str, ...]  # packages that the target must have

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def manifest_of(text: str) -> Manifest:
    """The manifest in a JSON text."""
    data: dict[str, Any] = json.loads(text)
    data |= {
        "streams": tuple(data["streams"]),
        "parts": tuple(Part(**part) for part in data["parts"]),
        "provided": tuple(data["provided"]),
    }
    return Manifest(**data)


def sizes(total: int, limit: int) -> tuple[int, ...]:
    """`total` bytes as the fewest parts of at most `limit` bytes each, as equal as can be; none for no bytes."""
    count = -(-total // limit)
    return tuple(total // count + (index < total % count) for index in range(count))


def tar_blocks(members: Iterable[Member], block: int = STREAM_BYTES) -> Iterator[bytes]:
    """The members as one tar, in blocks of `block` bytes; the last may be shorter."""
    buffer = io.BytesIO()
    archive = tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
    for member in members:
        info = tarfile.TarInfo(member.path)
        info.size, info.mtime, info.mode = len(member.data), TIME, 0o755 if member.program else 0o644
        archive.addfile(info, io.BytesIO(member.data))
        if buffer.tell() >= 2 * block:
            data = buffer.getvalue()
            whole = len(data) // block * block
            yield from (data[start : start + block] for start in range(0, whole, block))
            buffer.seek(0)
            buffer.truncate()
            buffer.write(data[whole:])
    archive.close()
    data = buffer.getvalue()
    yield from (data[start : start + block] for start in range(0, len(data), block))


def compressed(blocks: Iterable[bytes], search: dict[str, Any] = FAR) -> Iterator[tuple[int, bytes]]:
    """For each block its size and its xz stream, in order; as many at a time as there are cores."""

    def one(block: bytes) -> tuple[int, bytes]:
        return len(block), lzma.compress(block, filters=[search])  # releases the GIL

    with ThreadPool(os.cpu_count() or 1) as pool:
        yield from pool.imap(one, blocks)


def write_parts(name: str, streams: Iterable[bytes], folder: Path, limit: int) -> tuple[Part, ...]:
    """Write the bytes of `streams` as parts of at most `limit` bytes into `folder`."""
    data = b"".join(streams)
    parts, start = [], 0
    lengths = sizes(len(data), limit)
    for index, size in enumerate(lengths, 1):
        piece = data[start : start + size]
        file = f"{name}-{index}-of-{len(lengths)}.part"
        (folder / file).write_bytes(piece)
        parts.append(Part(file, size, hashlib.sha256(piece).hexdigest()))
        start += size
    return tuple(parts)


def whole(folder: Path, name: str) -> Manifest | None:
    """The manifest of the bundle `name` in `folder` where all its parts are there in their sizes; else None."""
    try:
        manifest = manifest_of((folder / f"{name}.json").read_text())
        there = all((folder / part.file).stat().st_size == part.size for part in manifest.parts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if there else None
