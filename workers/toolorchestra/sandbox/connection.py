"""The worker's end of a child's connection: one job, then its result. No coroutine per read, because grading is
frequent and cheap, and what surrounds it must be cheaper."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from typing import Any

from toolorchestra.sandbox.framing import HEADER, READ_BYTES, TooLong, frame
from toolorchestra.sandbox.limits import Limits


class JobTooLong(Exception):
    """A job that is longer than its limit."""


class Connection:
    """`exchange` one at a time; `close` once."""

    def __init__(self, end: socket.socket, *, limits: Limits) -> None:
        self._socket = end
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._result: asyncio.Future[bytes] | None = None
        self._given_up = False
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._readable)

    async def exchange(self, job: Any, *, seconds: float) -> Any:
        """What the child answers, as JSON.

        Raises:
            JobTooLong: nothing was sent. TimeoutError: not in time. EOFError, ConnectionError: the child is gone.
            TooLong, ValueError, RecursionError: what it sent is too long, or no answer to this job.
        """
        number = secrets.token_bytes(8)
        message = frame(job, number=number)
        if len(message) > self._limits.input_bytes:
            raise JobTooLong(f"{len(message)} bytes long, more than {self._limits.input_bytes}")
        self._result = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._fail, TimeoutError())
        try:
            await self._send(message)
            body = await self._result
        finally:
            timer.cancel()
            self._result = None
        if body[:8] != number:
            raise ValueError("an answer to another job")
        return json.loads(body[8:])

    @property
    def fit(self) -> bool:
        """For another job: the child is there, and has said nothing that it was not asked."""
        if self._given_up:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    async def _send(self, message: bytes) -> None:
        try:
            sent = self._socket.send(message)
        except BlockingIOError:
            sent = 0
        if sent < len(message) and self._result is not None:
            # A child that does not read is caught by the timer, as one that does not answer.
            sending = asyncio.ensure_future(self._loop.sock_sendall(self._socket, memoryview(message)[sent:]))
            both: set[asyncio.Future[Any]] = {sending, self._result}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not sending.done():
                    sending.cancel()

    def _readable(self) -> None:
        try:
            part = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part or self._result is None or self._result.done():
            self._give_up(EOFError())  # nothing more is read: who talks on would fill this process's memory
            return
        self._received += part
        if len(self._received) < HEADER.size:
            return
        length, _ = HEADER.unpack_from(self._received)
        if length > self._limits.output_bytes:
            self._fail(TooLong(f"{length} bytes long, more than {self._limits.output_bytes}"))
        elif len(self._received) >= HEADER.size + length:
            body = bytes(self._received[4 : HEADER.size + length])
            if len(self._received) > HEADER.size + length:
                self._give_up(ValueError("more than an answer"))
            self._received.clear()
            if self._result is not None and not self._result.done():
                self._result.set_result(body)

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        self._loop.remove_reader(self._socket.fileno())
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._result is not None and not self._result.done():
            self._result.set_exception(error)
