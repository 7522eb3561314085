"""Messages between worker, zygote and child: four bytes of length, then JSON."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

LENGTH = struct.Struct(">I")


class TooLong(Exception):
    """A message longer than its reader takes."""


def frame(value: Any) -> bytes:
    """A message's bytes. TypeError or ValueError where the value is no JSON."""
    body = json.dumps(value, allow_nan=False).encode()
    return LENGTH.pack(len(body)) + body


def receive(connection: socket.socket, *, at_most: int) -> Any:
    """The next message; EOFError where the other side is gone. Blocks."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > at_most:
        raise TooLong(f"{length} bytes, more than {at_most}")
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
