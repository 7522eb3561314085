"""An operator that dies right after its nth write, to the API server or to NATS: in this process, or as one of its own.

In a process of its own (`DIES_AFTER=n python -m support.cluster.mortal_operator FLAGS`) it is the real operator, and
kills itself with SIGKILL. In the test's process it is what the real one is put together from, one look at a time, and
its death is an exception that nothing of the operator catches: the next one starts with nothing but what was written.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nats.js import JetStreamContext

from toolorchestra.process import die_with_parent
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.manifest import Key, ParentKind, Ref
from toolorchestra_operator.kubernetes.transport import Transport
from toolorchestra_operator.messaging.servers import NatsServers, Question
from toolorchestra_operator.planning.carry_out import carry_out
from toolorchestra_operator.planning.events import Events
from toolorchestra_operator.planning.plan import Emit, Plan
from toolorchestra_operator.runtime.assembly import assemble
from toolorchestra_operator.runtime.main import main
from toolorchestra_operator.runtime.settings import Settings

DIES_AFTER = "DIES_AFTER"
_STREAM_WRITES = ("add_stream", "update_stream", "add_consumer", "delete_stream")
_MOST_LOOKS = 12
"""Of one operator, until it has come to rest."""


class Killed(BaseException):
    """The operator's process, ended."""


Write = tuple[str, int]
"""What was written, and for which time: the same in every life of one story."""


@dataclass
class Writes:
    """What was written, oldest first; right after each of `fatal` the operator dies, once."""

    fatal: frozenset[Write] = frozenset()
    done: list[Write] = field(default_factory=list[Write])

    def happened(self, what: str) -> None:
        write = (what, 1 + sum(what == other for other, _ in self.done))
        self.done.append(write)
        if write in self.fatal:
            raise Killed(write)


Tell = Callable[[str], None]


@dataclass
class WatchedServers(NatsServers):
    """NATS servers of whose writes is told, one at a time."""

    told: Tell = print

    async def ask(self, url: str, question: Question[Any], **how: Any) -> Any:
        return await super().ask(url, lambda js: question(_watched(js, self.told)), **how)


def _watched(js: JetStreamContext, tell: Tell) -> JetStreamContext:
    for name in _STREAM_WRITES:
        setattr(js, name, _told(getattr(js, name), name, tell))
    return js


def _told(real: Callable[..., Awaitable[Any]], verb: str, tell: Tell) -> Callable[..., Awaitable[Any]]:
    async def written(about: Any, *args: Any) -> Any:
        answer = await real(about, *args)
        stream: str = getattr(about, "name", None) or about
        tell(f"{verb} {stream.rpartition('_')[2]}")
        return answer

    return written


class WatchedApi(ApiServer):
    """An adapter that tells of its writes, as the looking operator uses it."""

    def __init__(self, real: ApiServer, tell: Tell, sent: list[tuple[Ref, Any]]) -> None:
        self.__dict__.update(real.__dict__)  # one connection and one set of schemas for all lives
        real_transport, self._tell = real._transport, tell
        self._transport = _WatchedTransport(real_transport, tell, sent)  # type: ignore[assignment]


@dataclass
class _WatchedTransport:
    real: Transport
    tell: Tell
    sent: list[tuple[Ref, Any]]

    async def request(self, verb: str, method: str, path: str, **options: Any) -> Any:
        if method != "GET":
            self.sent.append((options["about"], options.get("body")))
        answer = await self.real.request(verb, method, path, **options)
        if method != "GET":
            about: Ref = options["about"]
            # An event's name has a digest in it.
            self.tell(f"{verb} {about.kind} {about.name.partition('.')[0]}")
        return answer


@dataclass
class LookingOperator:
    """The operator's parts, one look at a time; `now` is the test's."""

    server: ApiServer
    settings: Settings
    writes: Writes = field(default_factory=Writes)
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    deaths: int = 0
    sent: list[tuple[Ref, Any]] = field(default_factory=list[tuple[Ref, Any]])
    """Everything that was written to the API server, or was to be."""

    def __post_init__(self) -> None:
        self._born()

    def _born(self) -> None:
        self.api = WatchedApi(self.server, self.writes.happened, self.sent)
        self.servers = WatchedServers(patience=60, told=self.writes.happened)
        self.machinery = assemble(self.settings, self.api, servers=self.servers)
        self.events = Events(self.api)

    async def look(self, key: Key) -> Plan | None:
        """One look, carried out; None: the parent is gone. Killed: it died of it."""
        reconciler = self.machinery.reconcilers[key.kind]
        observed = await reconciler.observe(key)
        if observed is None:
            return None
        plan = reconciler.reconcile(observed, self.now)

        async def emit(news: Emit) -> None:
            await self.events.post(news, about=observed.parent)

        metadata = observed.parent["metadata"]
        seen = {"uid": metadata["uid"], "version": metadata["resourceVersion"]}
        streams, about = self.machinery.streams, Ref.of(observed.parent)
        await carry_out(plan, parent=about, api=self.api, streams=streams, emit=emit, **seen)
        return plan

    async def settles(self, namespace: str, name: str, *, kind: ParentKind = "OrchestratorTraining") -> None:
        """Look until nothing is left to do; who died on the way is followed by another."""
        looks = 0
        while looks < _MOST_LOOKS:
            looks += 1
            try:
                plan = await self.look(Key(kind, namespace, name))
            except Killed:
                await self.close()
                self.deaths += 1
                self._born()
                looks = 0
                continue
            if plan is None or plan.empty:
                return
        raise AssertionError(f"it never comes to rest: {self.writes.done[-20:]}")

    async def close(self) -> None:
        for close in self.machinery.close:
            await close()


def _kill_after(number: int) -> None:
    """Make this process end itself after so many writes."""
    left = number

    def happened(what: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    real = Transport.request

    async def request(self: Transport, verb: str, method: str, path: str, **options: Any) -> Any:
        answer = await real(self, verb, method, path, **options)
        if method != "GET":
            happened(verb)
        return answer

    Transport.request = request  # type: ignore[method-assign]
    real_ask = NatsServers.ask

    async def ask(self: NatsServers, url: str, question: Question[Any], **how: Any) -> Any:
        return await real_ask(self, url, lambda js: question(_watched(js, happened)), **how)

    NatsServers.ask = ask  # type: ignore[method-assign]


if __name__ == "__main__":
    die_with_parent()
    if number := int(os.environ.get(DIES_AFTER, "0")):
        _kill_after(number)
    main()
