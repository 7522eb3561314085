"""The digest of a large file, computed by several threads: the sha256 of its blocks' sha256s, in order.

One sha256 over a whole snapshot is one core's work for seconds; blocks are hashed by as many threads as there are cores
(hashlib releases the interpreter's lock), and by the writer while it writes. No torch here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 16 << 20
"""Bytes of a block; the last one may be shorter. Part of the digest's definition."""
MAX_THREADS = 8
"""More are limited by memory and by the file system."""


def threads() -> int:
    """How many threads copy and hash: the cores that this process may use, within reason."""
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))


def join(blocks: Iterable[bytes]) -> str:
    """The file's digest, from the sha256 of each of its blocks."""
    return hashlib.sha256(b"".join(blocks)).hexdigest()


def block_digest(path: Path) -> str:
    """The digest of what is in the file. EOFError: it became shorter meanwhile."""
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size

        def of_block(start: int) -> bytes:
            block = bytearray(min(BLOCK, size - start))
            read_whole(handle, memoryview(block), start)  # one call may read less
            return hashlib.sha256(block).digest()

        with ThreadPoolExecutor(threads()) as pool:
            return join(pool.map(of_block, range(0, size, BLOCK)))
    finally:
        os.close(handle)


def read_whole(handle: int, into: memoryview, start: int) -> None:
    """Fill `into` from the file's byte `start` on; EOFError where the file ends before."""
    while into:
        got = os.preadv(handle, [into], start)
        if not got:
            raise EOFError(f"the file ends at byte {start}, {len(into)} bytes early")
        into, start = into[got:], start + got


def write_whole(handle: int, content: memoryview, start: int) -> None:
    """Write all of `content` at the file's byte `start`: one call may write less."""
    while content:
        put = os.pwrite(handle, content, start)
        content, start = content[put:], start + put
