"""HTTP connections to experts, only to addresses that `Reach` allows.

Invariants: a name is resolved when the connection is made, and exactly the checked addresses are connected to, so that
a later change of the name has no effect; an address in the URL is checked before. Nothing is kept from one reply for
the next request: no cookies. Behind a proxy, the proxy connects; the name is then checked here if it can be resolved.
"""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from typing import Final, Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from toolorchestra_operator.errors import OperatorError
from toolorchestra_operator.pools.reach import Reach, address_of

Way = Literal["inside", "outside", "proxy"]
_AGENT: Final = {"User-Agent": "toolorchestra-operator"}


class NotAllowed(OperatorError, OSError):
    """The host or its address may not be called."""


class Connections:
    """Client sessions, by the kind of connection. Used in one event loop; `close` it."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._sessions: dict[Way, aiohttp.ClientSession] = {}

    async def to(self, url: str, *, inside: bool) -> tuple[aiohttp.ClientSession, str | None]:
        """Return the session for a request, and the proxy. `inside`: a Service that the operator created.

        NotAllowed: the address may not be called. ValueError: it is not a URL.
        """
        parsed = URL(url)
        host, port = parsed.raw_host or "", parsed.port or 0
        if not inside and (why := self._reach.refuses(host)):
            raise NotAllowed(why)
        guard = _Guard(self._reach, inside=inside)
        if address_of(host) is not None:
            await guard.check(host, port, (host,))
        proxy = None if inside else _proxy(parsed)
        if proxy is not None:
            with contextlib.suppress(socket.gaierror):  # only the proxy can resolve it
                await guard.resolve(host, port, socket.AF_UNSPEC)
        way: Way = "inside" if inside else "outside" if proxy is None else "proxy"
        return self._session(way), proxy

    async def close(self) -> None:
        """Close all sessions."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, way: Way) -> aiohttp.ClientSession:
        if way not in self._sessions:
            resolver = None if way == "proxy" else _Guard(self._reach, inside=way == "inside")
            connector = aiohttp.TCPConnector(resolver=resolver)
            jar = aiohttp.DummyCookieJar()
            self._sessions[way] = aiohttp.ClientSession(connector=connector, cookie_jar=jar, headers=_AGENT)
        return self._sessions[way]


class _Guard(AbstractResolver):
    """Resolves names, and refuses addresses that may not be called."""

    def __init__(self, reach: Reach, *, inside: bool) -> None:
        self._reach, self._inside = reach, inside
        self._real = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve the host. NotAllowed: one of its addresses may not be connected to."""
        found = await self._real.resolve(host, port, family)
        await self.check(host, port, tuple(one["host"] for one in found))
        return found

    async def check(self, host: str, port: int, addresses: tuple[str, ...]) -> None:
        """Check the addresses. NotAllowed: one of them may not be connected to."""
        for address in map(address_of, addresses):
            if address is None:
                raise NotAllowed(f"{host} has an address that cannot be read")
            if why := self._reach.refuses_address(host, address, inside=self._inside):
                raise NotAllowed(why)
        api_server = self._reach.api_server
        if api_server is None or api_server[1] != port:
            return
        theirs = await self._real.resolve(*api_server, socket.AF_UNSPEC)
        if {address_of(one["host"]) for one in theirs} & set(map(address_of, addresses)):
            raise NotAllowed(f"{host} is the API server, which is no expert")

    async def close(self) -> None:
        await self._real.close()


def _proxy(url: URL) -> str | None:
    """Return the environment's proxy for the URL, by the usual rules."""
    if urllib.request.proxy_bypass(url.raw_host or ""):
        return None
    return urllib.request.getproxies().get(url.scheme)
