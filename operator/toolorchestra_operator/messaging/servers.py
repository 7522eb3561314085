"""The NATS servers that trainings name: one connection per URL, outside the workers, and the requests to them.

Invariants
- A caller waits at most `patience`, and not at all if the server is known not to answer: one training's server does not
  delay another training's reconcile.
- A server that does not answer is retried by its own task, after a back-off that ends only with an answer.
- A caller that got no answer is called (`call`) when that changes; a server that nobody asks for is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError

from toolorchestra.bus.nats_url import servers, shown
from toolorchestra_operator.errors import OperatorError
from toolorchestra_operator.kubernetes.backoff import Backoff
from toolorchestra_operator.kubernetes.manifest import Key

_log = logging.getLogger(__name__)
PATIENCE_SECONDS: Final = 1.0
"""How long a caller waits for an answer; for a connection, a quarter of it."""
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 20.0
_FORGET_SECONDS: Final = 900.0
"""Longer than any time between two reconciles of a training."""
_CLOSE_SECONDS: Final = 1.0
_PENDING: Final = "it has not answered yet"
_Errors: Final = (OSError, TimeoutError, ValueError, nats.errors.Error, APIError)
"""ValueError: a URL that the client cannot read."""
_Refusals: Final = (APIError, nats.errors.NoRespondersError)
"""Errors that are answers."""

Answer = TypeVar("Answer")
Question = Callable[[JetStreamContext], Awaitable[Answer]]


class MessagingUnreachable(OperatorError):
    """A request was not answered, or was refused. The message names the server, without credentials, and its error."""


class MessagingPending(MessagingUnreachable):
    """It is not yet known whether the server answers: ask again."""


@dataclass(eq=False)
class _Link:
    """One connection, from when it is established until it is `over`."""

    client: Client = field(default_factory=Client)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is over, or is known to be lost."""
        return self.over.is_set() or self.client.is_closed


@dataclass(eq=False)
class _Server:
    """The state of one URL. `words`: why it does not answer; empty: it answers, or that is not yet known."""

    url: str
    began: float
    asked: float
    link: _Link | None = None
    words: str = ""
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is connected, or when connecting failed."""
    late: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])
    """Requests whose caller no longer waits."""
    waiting: set[Key] = field(default_factory=set[Key])
    keeper: asyncio.Task[None] | None = None

    def named(self, words: str) -> str:
        return f"NATS at {shown(self.url)}: {words}"


@dataclass
class NatsServers:
    """All servers, for one event loop; `close` it. Durations in seconds."""

    patience: float = PATIENCE_SECONDS
    connect_seconds: float = _CONNECT_SECONDS
    answer_seconds: float = _ANSWER_SECONDS
    """The limit of one request as a whole."""
    forget_seconds: float = _FORGET_SECONDS
    backoff: Backoff = field(default_factory=lambda: Backoff(first=1.0, cap=60.0))
    clock: Callable[[], float] = time.monotonic
    _servers: dict[str, _Server] = field(default_factory=dict[str, _Server])
    _call: Callable[[Key], None] = lambda key: None

    def tell(self, call: Callable[[Key], None]) -> None:
        """Set the function to call with the keys whose server's state has changed."""
        self._call = call

    async def ask(
        self, url: str, question: Question[Answer], *, whose: Key | None = None, patient: bool = False
    ) -> Answer:
        """Return the answer. `patient`: wait as long as a request may take; `whose`: the key to call when to ask again.

        Raises: MessagingUnreachable: the server does not answer, or refuses; MessagingPending: that is not yet known,
        and the request may still be carried out.
        """
        server = self._of(url)
        try:
            return await self._ask(server, question, patient=patient)
        except MessagingUnreachable:
            if whose is not None:
                server.waiting.add(whose)
            raise

    async def close(self) -> None:
        """End all tasks and connections."""
        found = list(self._servers.values())
        self._servers.clear()
        tasks = [task for server in found for task in (server.keeper, *server.late) if task is not None]
        while tasks:
            for task in tasks:
                task.cancel()  # nats-py swallows a cancellation while it closes a connection
            _, left = await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
            tasks = list(left)

    async def _ask(self, server: _Server, question: Question[Answer], *, patient: bool) -> Answer:
        until = self.clock() + (self.connect_seconds + self.answer_seconds if patient else self.patience)
        if not server.known.is_set():
            # Of all callers in this time, only the first waits this long.
            greeting = until if patient else server.began + self.patience / 4
            await _within(server.known.wait(), greeting - self.clock())
        if server.words:
            raise MessagingUnreachable(server.named(server.words))
        if server.link is None or server.link.is_lost or (server.late and not patient):
            raise MessagingPending(server.named(_PENDING))
        task = asyncio.ensure_future(self._put(server, server.link, question))
        try:
            await asyncio.wait({task}, timeout=until - self.clock())
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return task.result()
        server.late.add(task)
        task.add_done_callback(lambda done: self._came(server, done))
        raise MessagingPending(server.named(_PENDING))

    async def _put(self, server: _Server, link: _Link, question: Question[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self.answer_seconds):
                answer = await question(link.client.jetstream(timeout=self.answer_seconds))
        except _Errors as error:
            words = said(error)
            if link.is_lost:  # only a new connection shows whether the server is there
                link.over.set()
                raise MessagingPending(server.named(_PENDING)) from error
            if not isinstance(error, _Refusals):
                if server.link is link:
                    self._says(server, words)
                link.over.set()
            raise MessagingUnreachable(server.named(words)) from error
        self.backoff.succeeded(server.url)
        return answer

    def _came(self, server: _Server, task: asyncio.Task[object]) -> None:
        """Handle the end of a request whose caller no longer waits."""
        server.late.discard(task)
        if not task.cancelled():
            task.exception()  # it is no surprise
        self._wake(server)

    def _of(self, url: str) -> _Server:
        now = self.clock()
        server = self._servers.get(url)
        if server is None:
            server = self._servers[url] = _Server(url, now, now)
            server.keeper = asyncio.create_task(self._keep(server), name=server.named("connection"))
        server.asked = now
        return server

    async def _keep(self, server: _Server) -> None:
        """Connect, and reconnect whenever the connection is over, until nobody asks for the server."""
        while self._is_wanted(server):
            link = _Link()
            try:
                await self._connect(server, link)
                while self._is_wanted(server) and not link.over.is_set():
                    await _within(link.over.wait(), self.forget_seconds)
                # A restarted server is back at once: only a failed attempt is reported.
            except _Errors as error:
                self._says(server, said(error))
            finally:
                server.link = None
                await _closed(link.client)
            await asyncio.sleep(self.backoff.failed(server.url))
        self.backoff.succeeded(server.url)
        del self._servers[server.url]

    def _is_wanted(self, server: _Server) -> bool:
        return self.clock() - server.asked < self.forget_seconds

    async def _connect(self, server: _Server, link: _Link) -> None:
        several = servers(server.url)

        async def over() -> None:
            link.over.set()

        async with asyncio.timeout(self.connect_seconds * len(several) + _CLOSE_SECONDS):
            await link.client.connect(
                several,
                name="toolorchestra-operator",
                connect_timeout=self.connect_seconds,  # type: ignore[arg-type]
                allow_reconnect=len(several) > 1,  # otherwise only the first would be tried
                max_reconnect_attempts=1,
                error_cb=_noted,
                closed_cb=over,
            )
        server.link, server.words = link, ""
        server.known.set()
        self._wake(server)

    def _says(self, server: _Server, words: str) -> None:
        news = not server.known.is_set() or words != server.words
        server.words = words
        server.known.set()
        if news:
            self._wake(server)

    def _wake(self, server: _Server) -> None:
        """Call the waiting keys, which then ask again; a key without an answer waits again."""
        waiting, server.waiting = server.waiting, set()
        for key in sorted(waiting):
            self._call(key)


def said(error: BaseException) -> str:
    """Return the server's error text, or what is known instead; never empty, never with credentials."""
    if isinstance(error, APIError):
        return shown(f"{error.description} (code {error.err_code})")
    text = str(error).removeprefix("nats: ")
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return shown(text or repr(error))


async def _within(wanted: Awaitable[object], seconds: float) -> None:
    """Wait for `wanted`, at most for `seconds`."""
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            await wanted
    except TimeoutError:
        pass


async def _closed(client: Client) -> None:
    closing = asyncio.ensure_future(client.close())
    await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
    closing.cancel()


async def _noted(error: Exception) -> None:
    """Log the error; the library would print a traceback per attempt. What matters becomes a condition."""
    _log.debug("nats: %r", error)
