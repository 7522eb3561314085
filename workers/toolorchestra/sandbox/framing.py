"""The format of messages between worker and child: a length, the job's number, then JSON.

The number is random for each job, and the result repeats it. So a child cannot answer a job before it receives it.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from toolorchestra.sandbox.errors import SandboxError

NUMBER_BYTES = 8
READ_BYTES = 64 * 1024
_HEADER = struct.Struct(f">I{NUMBER_BYTES}s")
_ENCODER = json.JSONEncoder(allow_nan=False)
"""Made once, because `json.dumps` with options makes an encoder per call."""


class TooLong(SandboxError):
    """A message is longer than its reader allows."""


def encode(value: Any) -> bytes:
    """Return a message's body in ASCII. TypeError, ValueError, RecursionError: the value is not JSON."""
    return _ENCODER.encode(value).encode("ascii")


def parse(body: bytes) -> Any:
    """Return the value in a body. ValueError, RecursionError: the body is not JSON."""
    return json.loads(str(body, "ascii"))


def address(body: bytes, number: bytes) -> bytes:
    """Return the whole message: header and body."""
    return _HEADER.pack(len(body), number) + body


def split(received: bytearray, *, at_most: int) -> tuple[bytes, bytes] | None:
    """Take the first message from the buffer; return its number and body. None: incomplete. May raise TooLong."""
    if len(received) < _HEADER.size:
        return None
    length, number = _HEADER.unpack_from(received)
    if length > at_most:
        raise TooLong(f"{length} bytes long, more than {at_most}")
    whole = _HEADER.size + length
    if len(received) < whole:
        return None
    body = bytes(received[_HEADER.size : whole])
    del received[:whole]
    return number, body


class Inbox:
    """The child's end: returns messages one by one, also if several arrive together."""

    def __init__(self, connection: socket.socket, *, at_most: int) -> None:
        self._connection = connection
        self._at_most = at_most
        self._received = bytearray()

    def next(self) -> tuple[bytes, bytes]:
        """Wait for the next message; return its number and body. EOFError: the worker closed. May raise TooLong."""
        while (message := split(self._received, at_most=self._at_most)) is None:
            part = self._connection.recv(READ_BYTES)
            if not part:
                raise EOFError
            self._received += part
        return message
