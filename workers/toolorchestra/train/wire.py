"""The controller's end of the bus: orders become envelopes, envelopes become arrivals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.protocol import HANDED_BACK, BusFull, BusUnavailable, Received, ResultKind, RolloutBus, Withdrawn
from toolorchestra.rollout.codec import decode_trace, encode_order
from toolorchestra.rollout.identity import Issue
from toolorchestra.rollout.order import Order
from toolorchestra.train.arrival import Arrival
from toolorchestra.train.ports import Delivery
from toolorchestra.train.run_meter import RunMeter

RETRY_SECONDS = 0.5
T = TypeVar("T")


class BusWire:
    """A Wire over any RolloutBus. Counts what went over it."""

    def __init__(self, bus: RolloutBus, *, meter: RunMeter | None = None) -> None:
        self._bus = bus
        self._meter = meter or RunMeter()
        self.sent = 0
        self.received = 0

    async def submit(self, order: Order, *, headers: Mapping[str, str] | None = None) -> None:
        """Publish; a full or unreachable stream is tried again with the same id until it takes the order."""
        envelope = Envelope(
            id=order.issue, body=encode_order(order), purpose=order.purpose, content="order/1", headers=headers or {}
        )
        await _until_it_answers(lambda: self._bus.submit(envelope))
        self.sent += 1
        self._meter.sent(order.issue, purpose=order.purpose)

    async def deliveries(self) -> AsyncIterator[Delivery]:
        async for received in self._bus.results():
            self.received += 1
            if received.kind is ResultKind.DEAD:
                self._meter.buried()
            yield Delivery(read_arrival(received), partial(self._bus.ack, received))

    async def withdraw(self, ids: Iterable[str]) -> Withdrawn:
        """Take orders back, as soon as the bus answers."""
        wanted = list(ids)
        return await _until_it_answers(lambda: self._bus.cancel(wanted))

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        wanted = list(ids)
        return await _until_it_answers(lambda: self._bus.unseen(wanted))

    async def put(self, key: str, value: bytes) -> None:
        await self._bus.put(key, value)


async def _until_it_answers(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask a full or unreachable bus again and again: whoever waits is cancelled where waiting is over."""
    while True:
        try:
            return await ask()
        except (BusFull, BusUnavailable):
            await asyncio.sleep(RETRY_SECONDS)


def read_arrival(received: Received) -> Arrival:
    """Decode a result. The reason of `deferred` is the expert; a hand-back at the last delivery is a loss."""
    envelope = received.envelope
    trace = decode_trace(envelope.body) if envelope.body else None
    deferred = received.kind is ResultKind.DEFERRED and envelope.reason != HANDED_BACK
    return Arrival(
        issue=Issue.parse(envelope.id),
        trace=trace,
        body=envelope.body,
        deferred_for=(envelope.reason or None) if deferred else None,
        reason=envelope.reason,
    )
