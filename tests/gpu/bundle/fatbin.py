"""GPU code in a shared library: what one kind of GPU never runs is set to zero, so that it compresses to nothing.

An extension module built with nvcc holds, in its section `.nv_fatbin`, a row of containers, one per compiled file. Each
container has a header and entries; an entry is machine code for one architecture (an ELF file, "cubin") or PTX, which
the driver compiles for any newer one. The driver takes the entry that fits the GPU and never reads the others' bytes.
Headers stay as they are, and so does every offset: only bytes of entries that cannot be taken become zero.

The layout is not documented by NVIDIA; it is the one that `cuobjdump` prints and that open tools read
(github.com/RWTH-ACS/cricket, cpu/cpu-elf2.c). A library with any other layout is left as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

CONTAINER_MAGIC = 0xBA55ED50
PTX, CUBIN = 1, 2
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes of all entries
_ENTRY = struct.Struct("<HHIQIIHHI")  # kind, version, header, payload, compressed, -, minor, major, architecture
_SECTION = struct.Struct("<IIQQQQIIQQ")


class UnknownLayout(ValueError):
    """The GPU code of this library is laid out in a way that is not known here."""


@dataclass(frozen=True)
class Entry:
    """One entry of a container: its `kind`, `architecture` (90 for sm_90) and where its payload lies in the file."""

    kind: int
    architecture: int
    start: int
    size: int


def section(library: bytes, name: str) -> tuple[int, int] | None:
    """Offset and size in bytes of the section `name` of a 64-bit ELF file; None where it has none."""
    if library[:6] != b"\x7fELF\x02\x01":
        return None
    (table,) = struct.unpack_from("<Q", library, 40)
    size, count, names = struct.unpack_from("<HHH", library, 58)
    headers = [_SECTION.unpack_from(library, table + index * size) for index in range(count)]
    for header in headers:
        start = headers[names][4] + header[0]
        if library[start : library.index(b"\0", start)] == name.encode():
            return header[4], header[5]
    return None


def containers(library: bytes, start: int, size: int) -> Iterator[tuple[Entry, ...]]:
    """The entries of each container in the bytes [start, start + size) of `library`; UnknownLayout where they are not."""
    place, end = start, start + size
    while place < end:
        if library[place : place + 8] == bytes(8):  # containers are aligned
            place += 8
            continue
        if end - place < _CONTAINER.size:
            raise UnknownLayout(f"{end - place} bytes behind the last container")
        magic, _, header, length = _CONTAINER.unpack_from(library, place)
        if magic != CONTAINER_MAGIC or place + header + length > end:
            raise UnknownLayout(f"no container at offset {place}")
        inside, place, found = place + header, place + header + length, []
        while inside < place:
            kind, _, entry_header, payload, _, _, _, _, architecture = _ENTRY.unpack_from(library, inside)
            if kind not in (PTX, CUBIN) or inside + entry_header + payload > place:
                raise UnknownLayout(f"no entry at offset {inside}")
            found.append(Entry(kind, architecture, inside + entry_header, payload))
            inside += entry_header + payload
        yield tuple(found)


def runs_on(entry: Entry, architecture: int) -> bool:
    """Whether a GPU of `architecture` can take the entry: machine code of its own generation, or PTX that is not newer."""
    if entry.kind == PTX:
        return entry.architecture <= architecture
    return entry.architecture // 10 == architecture // 10 and entry.architecture <= architecture


def unused(entries: tuple[Entry, ...], architecture: int) -> tuple[Entry, ...]:
    """The entries of one container that a GPU of `architecture` never takes; PTX goes where machine code fits exactly."""
    exact = any(entry.kind == CUBIN and entry.architecture == architecture for entry in entries)
    return tuple(
        entry for entry in entries if not runs_on(entry, architecture) or (exact and entry.kind == PTX)
    )


def trimmed(library: bytes, architecture: int) -> bytes:
    """`library` with the code that a GPU of `architecture` never runs set to zero; itself where it has no GPU code."""
    place = section(library, ".nv_fatbin")
    if place is None:
        return library
    changed = bytearray(library)
    for entries in containers(library, *place):
        for entry in unused(entries, architecture):
            changed[entry.start : entry.start + entry.size] = bytes(entry.size)
    return bytes(changed)
