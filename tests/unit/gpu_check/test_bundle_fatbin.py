"""GPU code for other GPUs becomes zero in a library, and nothing else changes."""

from __future__ import annotations

import struct

import pytest

from gpu.bundle.fatbin import CUBIN, PTX, Entry, UnknownLayout, section, trimmed, unused


def entry(kind: int, architecture: int, payload: bytes) -> bytes:
    header = struct.pack("<HHIQIIHHI", kind, 0x101, 64, len(payload), 0, 0, 0, 0, architecture)
    return header + bytes(64 - len(header)) + payload


def container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(code: bytes, name: bytes = b".nv_fatbin") -> bytes:
    """A 64-bit ELF file with two sections: names, and `code` in one called `name`."""
    names = b"\0" + name + b"\0.names\0"
    start = 64 + len(names)
    table = start + len(code)
    head = b"\x7fELF\x02\x01" + bytes(34) + struct.pack("<Q", table) + bytes(10) + struct.pack("<HHH", 64, 2, 1)
    sections = struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, start, len(code), 0, 0, 8, 0)
    sections += struct.pack("<IIQQQQIIQQ", 2 + len(name), 3, 0, 0, 64, len(names), 0, 0, 1, 0)
    return head + names + code + sections


A, B, C, D = (letter * 24 for letter in (b"a", b"b", b"c", b"d"))


def test_only_what_the_gpu_never_takes_becomes_zero() -> None:
    code = container(entry(CUBIN, 80, A), entry(CUBIN, 90, B), entry(PTX, 90, C), entry(CUBIN, 120, D))
    kept = container(entry(CUBIN, 80, A), entry(CUBIN, 90, B), entry(PTX, 90, C), entry(CUBIN, 120, D))
    for gone in (A, C, D):
        kept = kept.replace(gone, bytes(24))
    assert trimmed(library(code), 90) == library(kept)


def test_ptx_stays_where_no_machine_code_fits_exactly() -> None:
    code = (
        container(entry(CUBIN, 80, A), entry(PTX, 80, B), entry(PTX, 100, C))
        + bytes(8)
        + container(entry(CUBIN, 90, D))
    )
    found = trimmed(library(code), 90)
    assert (A in found, B in found, C in found, D in found) == (False, True, False, True)


@pytest.mark.parametrize(("architecture", "left"), [(80, {80}), (86, {80, 86}), (90, {90}), (100, {100})])
def test_machine_code_runs_on_its_own_generation_from_its_own_version_on(architecture: int, left: set[int]) -> None:
    entries = tuple(Entry(CUBIN, version, 0, 1) for version in (75, 80, 86, 90, 100, 120))
    gone = {one.architecture for one in unused(entries, architecture)}
    assert {one.architecture for one in entries} - gone == left


def test_a_library_without_gpu_code_stays_as_it_is() -> None:
    data = library(A, b".text")
    assert trimmed(data, 90) == data
    assert trimmed(b"no library", 90) == b"no library"
    assert section(data, ".text") == (64 + len(b"\0.text\0.names\0"), 24)


@pytest.mark.parametrize(
    "code",
    [
        container(entry(CUBIN, 80, A))[:-1],
        container(entry(7, 80, A)),
        b"12345678" + container(entry(CUBIN, 80, A)),
        container(entry(CUBIN, 80, A)) + b"rest",
    ],
)
def test_another_layout_is_refused(code: bytes) -> None:
    with pytest.raises(UnknownLayout):
        trimmed(library(code), 90)
