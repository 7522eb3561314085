"""Messages between worker and child: a length, the job's own number, then JSON.

The number is drawn for each job and comes back with its result, so that a child cannot answer a job before it has it.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

HEADER = struct.Struct(">I8s")
READ_BYTES = 64 * 1024


class TooLong(Exception):
    """A message longer than its reader takes."""


def frame(value: Any, *, number: bytes = bytes(8)) -> bytes:
    """A message's bytes. TypeError or ValueError where the value is no JSON."""
    body = json.dumps(value, allow_nan=False).encode()
    return HEADER.pack(len(body), number) + body


def receive(connection: socket.socket, *, at_most: int) -> tuple[Any, bytes]:
    """The next message and its number, read by the child, to whom one at a time is sent. EOFError: nobody is there."""
    data = _part(connection)
    while len(data) < HEADER.size:
        data += _part(connection)
    length, number = HEADER.unpack_from(data)
    if length > at_most:
        raise TooLong(f"{length} bytes, more than {at_most}")
    whole = HEADER.size + length
    if len(data) < whole:
        rest = bytearray(data)
        while len(rest) < whole:
            rest += _part(connection)
        data = bytes(rest)
    return json.loads(data[HEADER.size : whole]), number


def _part(connection: socket.socket) -> bytes:
    part = connection.recv(READ_BYTES)
    if not part:
        raise EOFError
    return part
