"""The worker's end of a child's connection, with the child's end in the test's hands."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from toolorchestra.sandbox.connection import Abandoned, Connection
from toolorchestra.sandbox.framing import Inbox, address, encode
from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.result import Broke, How, Returned

pytestmark = pytest.mark.asyncio

LIMITS = Limits(output_bytes=1000)
Open = Callable[[Limits], tuple[Connection, socket.socket]]


@pytest_asyncio.fixture
async def opened() -> AsyncIterator[Open]:
    made: list[tuple[Connection, socket.socket]] = []

    def pair(limits: Limits) -> tuple[Connection, socket.socket]:
        ours, theirs = socket.socketpair()
        made.append((Connection(ours, limits=limits), theirs))
        return made[-1]

    yield pair
    for connection, child in made:
        connection.close()
        child.close()


def numbers(child: socket.socket, count: int) -> list[bytes]:
    inbox = Inbox(child, at_most=LIMITS.input_bytes)
    return [inbox.next()[0] for _ in range(count)]


async def test_results_come_out_in_the_order_of_the_jobs_however_they_are_cut(opened: Open) -> None:
    connection, child = opened(LIMITS)
    asked = [connection.ask(encode(i)) for i in range(3)]
    sent = b"".join(address(encode({"value": i}), number) for i, number in enumerate(numbers(child, 3)))
    for at in range(0, len(sent), 7):
        child.send(sent[at : at + 7])
        await asyncio.sleep(0)
    assert await asyncio.gather(*asked) == [Returned(0), Returned(1), Returned(2)]
    assert connection.jobs == 0


async def test_an_answer_out_of_turn_is_none(opened: Open) -> None:
    """A child has the numbers of the jobs behind the one that runs, and may not answer them before it."""
    connection, child = opened(LIMITS)
    first, second = connection.ask(encode(1)), connection.ask(encode(2))
    _, number = numbers(child, 2)
    child.sendall(address(encode({"value": 1.0}), number))
    assert await first == Broke(How.OUTPUT, "its output is not a result")
    with pytest.raises(Abandoned):
        await second


async def test_what_nobody_asked_for_breaks_the_child_and_no_job(opened: Open) -> None:
    connection, child = opened(LIMITS)
    child.sendall(address(encode({"value": 1.0}), bytes(8)))
    while not connection.broken:  # noqa: ASYNC110
        await asyncio.sleep(0)
    with pytest.raises(Abandoned):
        await connection.ask(encode(1))


async def test_nothing_is_believed_after_a_child_broke(opened: Open) -> None:
    connection, child = opened(LIMITS)
    asked = [connection.ask(encode(i)) for i in range(2)]
    first, second = numbers(child, 2)
    child.sendall(address(encode({"out_of_memory": True}), first) + address(encode({"value": 1.0}), second))
    assert (await asked[0]).how is How.MEMORY  # type: ignore[union-attr]
    with pytest.raises(Abandoned):
        await asked[1]


async def test_only_the_first_jobs_time_runs(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    connection, child = opened(replace(LIMITS, wall_seconds=10.0))
    first, second = connection.ask(encode(1)), connection.ask(encode(2))
    number, _ = numbers(child, 2)
    now = 9.0
    child.sendall(address(encode({"value": 1}), number))
    assert await first == Returned(1)
    now = 18.0
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not second.done()
    now = 19.0
    assert await second == Broke(How.TIME, "it took more than 10 seconds")


async def test_jobs_longer_than_the_sockets_buffer_arrive_whole(opened: Open) -> None:
    connection, child = opened(LIMITS)
    asked = [connection.ask(encode(str(i) * 1_000_000)) for i in range(3)]
    inbox = Inbox(child, at_most=LIMITS.input_bytes)
    for i in range(3):
        number, body = await asyncio.to_thread(inbox.next)
        assert body == encode(str(i) * 1_000_000)
        child.sendall(address(encode({"value": i}), number))
    assert await asyncio.gather(*asked) == [Returned(0), Returned(1), Returned(2)]


async def test_closing_abandons_what_is_on_its_way(opened: Open) -> None:
    connection, _ = opened(LIMITS)
    asked = connection.ask(encode(1))
    connection.close()
    connection.close()
    with pytest.raises(Abandoned):
        await asked
