"""A training's streams on a NATS server: creates, removes and lists them. Every action may be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from nats.js import JetStreamContext

from toolorchestra.bus.streams import StreamSettings, make_streams, remove_streams
from toolorchestra_operator.messaging.servers import NatsServers


class StreamsPort(Protocol):
    """Creates and removes streams; both may be repeated."""

    async def make(self, *, url: str, uid: str, settings: StreamSettings) -> None: ...

    async def remove(self, *, url: str, uid: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class NatsStreams:
    """The implementation on NATS. `patient`: wait as long as servers may take, which no worker of a queue should."""

    servers: NatsServers = field(default_factory=NatsServers)
    patient: bool = False

    async def make(self, *, url: str, uid: str, settings: StreamSettings) -> None:
        """Create what is missing, update what differs. MessagingUnreachable: not done, or not known to be."""

        async def make(js: JetStreamContext) -> None:
            await make_streams(js, uid=uid, settings=settings)

        await self.servers.ask(url, make, patient=self.patient)

    async def remove(self, *, url: str, uid: str) -> None:
        """Delete all of them. MessagingUnreachable: not done, or not known to be."""

        async def remove(js: JetStreamContext) -> None:
            await remove_streams(js, uid=uid)

        await self.servers.ask(url, remove, patient=self.patient)

    async def metadata(self, *, url: str) -> dict[str, Mapping[str, str]]:
        """Return the metadata of every stream on the server, by its name. MessagingUnreachable: no answer."""
        return await self.servers.ask(url, _metadata, patient=self.patient)


async def _metadata(js: JetStreamContext) -> dict[str, Mapping[str, str]]:
    found: dict[str, Mapping[str, str]] = {}
    while page := await js.streams_info(offset=len(found)):
        before = len(found)
        found |= {info.config.name or "": info.config.metadata or {} for info in page}
        if len(found) == before:
            break  # streams were removed while they were listed: the next call lists the rest
    return found
