"""The controller's side of the bus: encodes orders into envelopes, and decodes envelopes into arrivals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.protocol import (
    ABANDONED,
    HANDED_BACK,
    UNREADABLE,
    UNTOUCHED,
    BusFull,
    BusUnavailable,
    Received,
    ResultKind,
    RolloutBus,
    Withdrawn,
)
from toolorchestra.controller.arrival import Arrival, Undecodable, check_trace
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.ports import Delivery
from toolorchestra.rollout.codec import (
    ORDER_CONTENT,
    TRACE_CONTENT,
    CodecError,
    check_content,
    decode_trace,
    encode_order,
)
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import Trace
from toolorchestra.telemetry.metrics import Recorder

RETRY_SECONDS = 0.5
T = TypeVar("T")
Keep = Callable[[Undecodable], Awaitable[None]]

_log = logging.getLogger(__name__)

_NO_EXPERTS = frozenset({HANDED_BACK, UNTOUCHED, ABANDONED})


class BusWire:
    """A Wire over any RolloutBus; counts the orders sent and the messages received.

    `keep` stores an undecodable message on disk before it is acknowledged.
    """

    def __init__(self, bus: RolloutBus, *, recorder: Recorder | None = None, keep: Keep | None = None) -> None:
        self._bus = bus
        self._recorder = recorder or Recorder()
        self._keep = keep or _tell
        self.sent = 0
        self.received = 0

    async def submit(self, order: Order, *, headers: Mapping[str, str] | None = None) -> None:
        """Publish the order; if the stream is full or unreachable, try again with the same id until it is accepted."""
        envelope = Envelope(
            id=order.issue,
            body=encode_order(order),
            purpose=order.purpose,
            content=ORDER_CONTENT,
            headers=headers or {},
        )
        await _until_it_answers(lambda: self._bus.submit(envelope))
        self.sent += 1
        self._recorder.write(measurements.of_dispatch, order.issue, purpose=order.purpose)

    async def deliveries(self) -> AsyncIterator[Delivery]:
        async for received in self._bus.results():
            self.received += 1
            if received.kind is ResultKind.DEAD:
                self._recorder.write(measurements.of_dead_letter)
            arrival, refused = read_arrival(received)
            if refused is not None:
                await self._keep(refused)
            if arrival is not None:
                yield Delivery(arrival, partial(self._bus.ack, received))
            else:
                await self._bus.ack(received)

    async def withdraw(self, ids: Iterable[str]) -> Withdrawn:
        """Withdraw orders, as soon as the bus answers."""
        wanted = list(ids)
        return await _until_it_answers(lambda: self._bus.cancel(wanted))

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        wanted = list(ids)
        return await _until_it_answers(lambda: self._bus.unseen(wanted))


async def _until_it_answers(ask: Callable[[], Awaitable[T]]) -> T:
    """Repeat the request while the bus is full or unreachable; the caller's task is cancelled to stop the wait."""
    while True:
        try:
            return await ask()
        except (BusFull, BusUnavailable):
            await asyncio.sleep(RETRY_SECONDS)


async def _tell(refused: Undecodable) -> None:
    _log.error("undecodable result %s (%d bytes): %s", refused.id, len(refused.raw), refused.why)


def read_arrival(received: Received) -> tuple[Arrival | None, Undecodable | None]:
    """Decode a message: return the arrival, if its id is a dispatch, and the undecodable part, if there is one.

    The reason of a deferred result is the expert's name, except for a few reasons of the worker or of the bus. An order
    that was handed back at its last delivery counts as lost.
    """
    envelope = received.envelope
    try:
        dispatch = Dispatch.parse(envelope.id)
    except ValueError as error:
        return None, Undecodable(envelope.id, str(error), envelope.body)
    try:
        trace = _trace(envelope) if envelope.body else None
    except CodecError as error:
        refused = Undecodable(envelope.id, str(error), envelope.body)
        return Arrival(dispatch, None, b"", reason=refused.why, undecodable=True), refused
    deferred = received.kind is ResultKind.DEFERRED and envelope.reason not in _NO_EXPERTS
    arrival = Arrival(
        dispatch=dispatch,
        trace=trace,
        body=envelope.body,
        deferred_for=(envelope.reason or None) if deferred else None,
        reason=envelope.reason,
        untouched=received.kind is ResultKind.DEFERRED and envelope.reason == UNTOUCHED,
        abandoned=received.kind is ResultKind.DEFERRED and envelope.reason == ABANDONED,
        unread=received.kind is ResultKind.DEAD and envelope.reason.startswith(UNREADABLE),
    )
    return arrival, None


def _trace(envelope: Envelope) -> Trace:
    check_content(envelope.content, wanted=TRACE_CONTENT)
    trace = decode_trace(envelope.body)
    try:
        check_trace(trace, id_=envelope.id)
    except ValueError as error:
        raise CodecError(str(error)) from error
    return trace
