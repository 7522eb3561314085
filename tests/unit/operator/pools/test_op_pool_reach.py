"""Where the operator asks and where it never does: by host, by address, and by what a name turns out to be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from support.cluster.pool_world import HERE
from toolorchestra_operator.pools.connections import Connections, NotAllowed
from toolorchestra_operator.pools.reach import Reach, address_of, is_listable

ANYWHERE = Reach()
LISTED = Reach(("api.example", "*.gateways.example", "10.8.0.0/16", "192.168.1.5"))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "100.100.100.200"),
        *("[::1]", "[::]", "[fe80::1]", "[fe80::1%25eth0]", "[ff02::1]", "[fd00:ec2::254]", "[fd20:ce::254]"),
        *("168.63.129.16", "192.0.0.192", "[::ffff:168.63.129.16]"),
        *("[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]"),
    ],
)
def test_nobody_is_asked_there_whatever_the_list_says(host: str) -> None:
    for hosts in (("*",), (host,), (host.strip("[]"),), ("0.0.0.0/0", "::/0", "*")):
        assert "no expert is ever asked" in str(Reach(hosts).refuses(host))


@pytest.mark.parametrize(
    ("reach", "host", "asked"),
    [
        (ANYWHERE, "api.example", True),
        (ANYWHERE, "8.8.8.8", True),
        (ANYWHERE, "[2606:4700::1111]", True),
        (ANYWHERE, "10.0.0.1", False),
        (ANYWHERE, "192.168.1.5", False),
        (ANYWHERE, "[fd00::1]", False),
        (ANYWHERE, "100.64.0.1", False),
        (LISTED, "api.example", True),
        (LISTED, "API.Example.", True),
        (LISTED, "xapi.example", False),
        (LISTED, "api.example.evil.example", False),
        (LISTED, "a.b.gateways.example", True),
        (LISTED, "gateways.example", False),
        (LISTED, "evilgateways.example", False),
        (LISTED, "10.8.3.4", True),
        (LISTED, "10.9.3.4", False),
        (LISTED, "192.168.1.5", True),
        (LISTED, "8.8.8.8", False),
        (Reach(()), "api.example", False),
    ],
)
def test_which_hosts_may_be_experts(reach: Reach, host: str, asked: bool) -> None:
    assert (reach.refuses(host) is None) == asked
    assert asked or "pools.allowedHosts" in str(reach.refuses(host))


@pytest.mark.parametrize(
    ("reach", "host", "address", "connected"),
    [
        (ANYWHERE, "api.example", "8.8.8.8", True),
        (ANYWHERE, "api.example", "10.0.0.1", False),
        (LISTED, "api.example", "10.0.0.1", True),
        (LISTED, "api.example", "169.254.169.254", False),
        (Reach(("*", "10.8.0.0/16")), "anything.example", "10.8.0.1", True),
    ],
)
def test_what_a_name_may_turn_out_to_be(reach: Reach, host: str, address: str, connected: bool) -> None:
    parsed = address_of(address)
    assert parsed is not None
    assert (reach.refuses_address(host, parsed) is None) == connected


def test_a_service_of_ours_needs_no_list_and_leads_nowhere_else() -> None:
    for address, connected in (("10.96.0.7", True), ("169.254.169.254", False)):
        parsed = address_of(address)
        assert parsed is not None
        assert (Reach(()).refuses_address("qwen-vllm.team-a.svc", parsed, inside=True) is None) == connected


def test_what_the_list_takes() -> None:
    for good in ("*", "a.example", "*.svc", "10.0.0.0/8", "10.0.0.1", "fd00::/8", "::1", "simulator"):
        assert is_listable(good), good
    for bad in ("", "https://a.example", "a.example/v1", "*a.example", "a.*", "10.0.0.0/64", "a b"):
        assert not is_listable(bad), bad


# ── connections ────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port of this machine, and what was sent there."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heard


async def asked(reach: Reach, url: str) -> str:
    """Why nobody was; empty: somebody was."""
    connections = Connections(reach)
    try:
        session, proxy = await connections.to(url, inside=False)
        async with session.get(url, proxy=proxy):
            return ""
    except NotAllowed as error:
        return str(error)
    except aiohttp.ClientConnectorError as error:
        return str(error.os_error)
    finally:
        await connections.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"])
async def test_no_spelling_of_this_machine_is_asked(host: str) -> None:
    async with listening() as (port, heard):
        assert "no expert is ever asked" in await asked(Reach(("*", host)), f"http://{host}:{port}/v1")
        assert not heard
        assert await asked(HERE, f"http://127.0.0.1:{port}/v1") == "", "the test can fail"
        assert heard


async def test_a_name_that_is_another_a_moment_later_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at is what is connected to."""
    answers = iter(["93.184.216.34", "127.0.0.1"])

    async def resolve(self: object, host: str, port: int, family: int) -> list[dict[str, object]]:
        found = {"hostname": host, "host": next(answers), "port": port, "family": socket.AF_INET}
        return [{**found, "proto": 0, "flags": socket.AI_NUMERICHOST}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    async with listening() as (port, heard):
        url = f"http://rebinding.example:{port}/v1"
        connections = Connections(ANYWHERE)
        try:
            await connections.to(url, inside=False)  # nothing of a look before is relied on
            assert next(answers) == "93.184.216.34"
            session, _ = await connections.to(url, inside=False)
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session.get(url)
            assert isinstance(refused.value.os_error, NotAllowed)
        finally:
            await connections.close()
        assert not heard


async def test_the_api_server_is_no_expert() -> None:
    async with listening() as (port, heard):
        reach = Reach(("127.0.0.1", "localhost"), api_server=("localhost", port), never=())
        for host in ("127.0.0.1", "localhost"):
            assert "is the API server" in await asked(reach, f"http://{host}:{port}/v1")
        assert not heard


async def test_through_a_proxy_what_is_known_here_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as (port, heard):
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        for host in ("169.254.169.254", "localhost"):
            assert "no expert is ever asked" in await asked(ANYWHERE, f"http://{host}:{port}/v1")
        assert not heard
        assert await asked(ANYWHERE, "http://only-the-proxy-knows.invalid/v1") == ""
        assert heard == [b"GET http://only-the-proxy-knows.invalid/v1 HTTP/1.1\r\n"]
