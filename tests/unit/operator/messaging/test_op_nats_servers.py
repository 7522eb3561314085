"""Connections to NATS servers: nobody waits for one that does not answer, and who could not be answered is called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from toolorchestra.bus.nats_url import has_credentials, mistake, shown
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.backoff import Backoff
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.messaging.servers import MessagingPending, MessagingUnreachable, NatsServers, said

KEY = Key("OrchestratorTraining", "team", "tiny")


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[str, asyncio.Queue[None]]]:
    """One that accepts and never says a word; who came."""
    came = asyncio.Queue[None]()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.put_nowait(None)
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    yield f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}", came
    listening.close()


@asynccontextmanager
async def closing(servers: NatsServers) -> AsyncIterator[tuple[NatsServers, asyncio.Queue[Key]]]:
    called = asyncio.Queue[Key]()
    servers.tell(called.put_nowait)
    yield servers, called
    await servers.close()


async def account(js: JetStreamContext) -> int:
    return (await js.account_info()).streams


async def never(js: JetStreamContext) -> None:
    await asyncio.Event().wait()


async def test_a_server_that_never_answers_is_waited_for_once_and_then_not_at_all() -> None:
    async with listener() as (url, came), closing(NatsServers(patience=0.0)) as (servers, called):
        for _ in range(3):
            with pytest.raises(MessagingPending, match="it has not answered yet"):
                await servers.ask(url, account, whose=KEY)
        await came.get()
        assert came.empty(), "one connection, however many ask"
        assert called.empty()


async def test_what_becomes_known_is_called_out_once_and_told_at_once() -> None:
    quick = Backoff(first=0.01, cap=0.01)
    async with (
        listener() as (url, came),
        closing(NatsServers(patience=0.0, connect_seconds=0.2, backoff=quick)) as (
            servers,
            called,
        ),
    ):
        with pytest.raises(MessagingPending):
            await servers.ask(url, account, whose=KEY)
        assert await called.get() == KEY
        for _ in range(3):  # tries that end as the one before are no news
            await came.get()
        with pytest.raises(MessagingUnreachable, match=r"NATS at nats://127\.0\.0\.1:\d+: no answer in time") as told:
            await servers.ask(url, account, whose=KEY)
        assert not isinstance(told.value, MessagingPending)
        assert called.empty()


async def test_a_server_that_comes_up_calls_those_who_asked(tmp_path: Path) -> None:
    async with NatsServer(directory=tmp_path / "nats") as first:
        port = first.port
    quick = Backoff(first=0.05, cap=0.05)
    async with closing(NatsServers(patience=60, backoff=quick)) as (servers, called):
        with pytest.raises(MessagingUnreachable, match="onnect"):
            await servers.ask(f"nats://127.0.0.1:{port}", account, whose=KEY)
        async with NatsServer(directory=tmp_path / "nats", port=port) as again:
            assert await called.get() == KEY
            assert await servers.ask(again.url, account) == 0


async def test_a_slow_question_is_left_to_itself_and_its_end_is_told(tmp_path: Path) -> None:
    goes_on = asyncio.Event()

    async def slow(js: JetStreamContext) -> int:
        await goes_on.wait()
        return await account(js)

    async with (
        NatsServer(directory=tmp_path / "nats") as server,
        closing(NatsServers(patience=60)) as (servers, called),
    ):
        assert await servers.ask(server.url, account) == 0
        servers.patience = 0.0
        for question in (slow, account):
            with pytest.raises(MessagingPending):
                await servers.ask(server.url, question, whose=KEY)
        goes_on.set()
        assert await called.get() == KEY
        servers.patience = 60
        assert await servers.ask(server.url, account) == 0


async def test_a_server_that_greets_and_answers_no_question_is_away(tmp_path: Path) -> None:
    options = {"answer_seconds": 0.2, "backoff": Backoff(first=60, cap=60)}
    async with (
        NatsServer(directory=tmp_path / "nats") as server,
        closing(NatsServers(patience=60, **options)) as (servers, _),  # type: ignore[arg-type]
    ):
        for _ in range(2):
            with pytest.raises(MessagingUnreachable, match="no answer in time"):
                await servers.ask(server.url, never)


async def test_a_connection_that_is_lost_is_no_verdict_yet(tmp_path: Path) -> None:
    options = {"backoff": Backoff(first=60, cap=60)}
    async with closing(NatsServers(patience=60, **options)) as (servers, _):  # type: ignore[arg-type]
        async with NatsServer(directory=tmp_path / "nats") as server:
            assert await servers.ask(server.url, account) == 0
            [known] = servers._servers.values()
            assert known.link is not None
            over = known.link.over
        await over.wait()
        with pytest.raises(MessagingPending):
            await servers.ask(server.url, account)


async def test_a_server_that_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    options = {"forget_seconds": 0.05, "backoff": Backoff(first=0.01, cap=0.01)}
    async with (
        NatsServer(directory=tmp_path / "nats") as server,
        closing(NatsServers(patience=60, **options)) as (servers, _),  # type: ignore[arg-type]
    ):
        assert await servers.ask(server.url, account) == 0
        [keeper] = [one.keeper for one in servers._servers.values()]
        assert keeper is not None
        await keeper
        assert not servers._servers
        assert await servers.ask(server.url, account) == 0


async def test_nobody_listens_and_no_credentials_are_told() -> None:
    url = "nats://someone:secret@127.0.0.1:1,nats://someone:secret@127.0.0.1:2"
    async with closing(NatsServers(patience=60)) as (servers, _):
        with pytest.raises(MessagingUnreachable) as told:
            await servers.ask(url, account)
    assert "secret" not in str(told.value)
    assert "127.0.0.1:1" in str(told.value)


@pytest.mark.parametrize("error", [TimeoutError(), OSError(), ConnectionResetError(), ValueError("nats: bad")])
def test_a_cause_is_never_empty(error: Exception) -> None:
    assert said(error).strip()


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("nats://host:4222", "nats://host:4222"),
        ("nats://user:password@host", "nats://host"),
        ("nats://token@host", "nats://host"),
        ("nats://u:p@ss/w,rd@host", "nats://host"),
        ("nats://u:p@a,tls://u:p@b:1", "nats://a,tls://b:1"),
        ("nats://u:p@a, nats://u:p@b", "nats://a, nats://b"),
        ("cannot reach wss://u:p@a: refused", "cannot reach wss://a: refused"),
    ],
)
def test_a_url_is_shown_without_its_credentials(url: str, bare: str) -> None:
    assert shown(url) == bare
    assert has_credentials(url) == (url != bare)


@pytest.mark.parametrize(
    "url",
    [
        "not a url",
        "host:4222",
        "http://host",
        "nats://",
        "nats://host:many",
        "nats://u:s3cret@",
        "nats://[::1",
        "nats://a,b",
    ],
)
def test_what_is_no_nats_url_is_said_and_shows_no_credentials(url: str) -> None:
    assert "nats://host:4222" in mistake(url)
    assert "s3cret" not in mistake(url)


@pytest.mark.parametrize(
    "url", ["nats://host", "nats://u:p@[::1]:4222", "tls://a:1,tls://b:2", "wss://token@host/path"]
)
def test_nats_urls_have_no_mistake(url: str) -> None:
    assert mistake(url) == ""
