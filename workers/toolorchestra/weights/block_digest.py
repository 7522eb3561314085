"""The digest of a large file, computed by several threads: the sha256 of its blocks' sha256s, in order.

One sha256 over a whole snapshot keeps one core busy for seconds. Blocks are hashed by one thread per core (hashlib
releases the GIL), and the writer hashes them while it writes. No torch here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 16 << 20
"""Bytes of a block; the last one may be shorter. It is part of the digest's definition."""
MAX_THREADS = 8
"""Most threads; with more, memory and the file system are the limit."""


def threads() -> int:
    """Return the number of threads that copy and hash: the cores that this process may use, at most `MAX_THREADS`."""
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))


def join(blocks: Iterable[bytes]) -> str:
    """Return the file's digest from the sha256 of each of its blocks."""
    return hashlib.sha256(b"".join(blocks)).hexdigest()


def block_digest(path: Path) -> str:
    """Return the digest of the file's content. EOFError if the file became shorter in the meantime."""
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
    """Fill `into` with the file's bytes from `start` on. EOFError if the file ends before."""
    while into:
        got = os.preadv(handle, [into], start)
        if not got:
            raise EOFError(f"the file ends at byte {start}, {len(into)} bytes early")
        into, start = into[got:], start + got


def write_whole(handle: int, content: memoryview, start: int) -> None:
    """Write all of `content` to the file from byte `start` on; a single call may write less."""
    while content:
        put = os.pwrite(handle, content, start)
        content, start = content[put:], start + put
