"""Reads and deletes the tasks in a training's stream, and reads the position of the workers' consumer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from nats.js.errors import APIError, NotFoundError

from toolorchestra.bus.connection import Connection
from toolorchestra.bus.streams import WORKERS, StreamNames

_NO_MESSAGE = frozenset({10043, 10057})
"""Errors for a message that does not exist: JSSequenceNotFoundErrF (status 400: it was removed between look-up and
deletion), JSStreamMsgDeleteFailedF (500: no message has that number)."""
_AT_ONCE = 64
"""Most requests at the same time, where there is one per id."""


class TaskStream:
    """The stream of tasks of one training."""

    def __init__(self, connection: Connection, names: StreamNames) -> None:
        self._connection, self._names = connection, names

    async def holds(self, subject: str) -> bool:
        """Return whether the stream has a task with the subject."""
        try:
            await self._connection.patiently(
                "look up", lambda: self._connection.js.get_last_msg(self._names.tasks, subject)
            )
        except NotFoundError:
            return False
        return True

    async def delete_all(self, numbers: dict[str, int]) -> None:
        """Delete these tasks (id → stream sequence)."""

        async def delete(id_: str) -> None:
            await self._connection.patiently("take back", lambda: self.delete(numbers[id_]))

        await _each(delete, numbers)

    async def numbers(self, ids: Iterable[str]) -> dict[str, int]:
        """Return id → stream sequence of the tasks that are in the stream."""
        found: dict[str, int] = {}

        async def look(id_: str) -> None:
            subject = self._names.task_subject(purpose="*", id_=id_)
            with contextlib.suppress(NotFoundError):
                raw = await self._connection.patiently(
                    "look up", lambda: self._connection.js.get_last_msg(self._names.tasks, subject)
                )
                found[id_] = raw.seq or 0

        await _each(look, ids)
        return found

    async def beyond_delivered(self, numbers: dict[str, int]) -> frozenset[str]:
        """Return the ids of tasks that were never delivered: those after the consumer's last delivered sequence.

        A stream is delivered in the order of its sequence.
        """
        if not numbers:
            return frozenset()
        info = await self._connection.patiently(
            "look up", lambda: self._connection.js.consumer_info(self._names.tasks, WORKERS)
        )
        delivered = info.delivered.stream_seq if info.delivered is not None else 0
        return frozenset(id_ for id_, number in numbers.items() if number > delivered)

    async def ids_in(self, stream: str, subjects: str) -> list[str]:
        """Return the ids of a stream's messages: the part of the subject at the wildcard `>` that ends `subjects`."""
        ask = partial(self._connection.js.stream_info, stream, subjects_filter=subjects)
        info = await self._connection.patiently("look up", ask)
        tokens = subjects.count(".")
        return [subject.split(".", tokens)[tokens] for subject in info.state.subjects or {}]

    async def delete(self, number: int) -> None:
        """Delete a task. It is no error if the task does not exist."""
        try:
            await self._connection.js.delete_msg(self._names.tasks, number)
        except APIError as error:
            if error.err_code not in _NO_MESSAGE:
                raise


async def _each(work: Callable[[str], Awaitable[None]], ids: Iterable[str]) -> None:
    """Run `work` for every id, at most `_AT_ONCE` at the same time."""
    left = list(ids)
    for start in range(0, len(left), _AT_ONCE):
        await asyncio.gather(*(work(id_) for id_ in left[start : start + _AT_ONCE]))
