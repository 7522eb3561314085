"""A connection to the run's nats-server whose publishes lose their PubAck now and then; more bodies travel apart."""

from __future__ import annotations

import random
from typing import Any

import nats.errors

from faults.plan import MessageRates
from toolorchestra.bus.connection import Timeouts
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.streams import StreamSettings
from toolorchestra.contract.driver_config import DriverConfig

QUICK = Timeouts(connect=10, request=1, deadline=20, reconnect_wait=0.05)
STREAMS = StreamSettings(ack_wait=2.5, result_ack_wait=4.0)
INLINE_BYTES = 20_000
"""So low that some bodies travel beside their message, as large ones do."""


async def connect(config: DriverConfig, *, name: str, rng: random.Random, rates: MessageRates) -> NatsBus:
    """As NatsBus.connect."""
    bus = await NatsBus.connect(config.nats_url, uid=config.uid, name=name, timeouts=QUICK, inline_bytes=INLINE_BYTES)
    publish = bus.connection.js.publish

    async def unsure(*args: Any, **kwargs: Any) -> Any:
        ack = await publish(*args, **kwargs)
        if rng.random() < rates.lost_ack:
            raise nats.errors.TimeoutError
        return ack

    bus.connection.js.publish = unsure  # type: ignore[method-assign]
    return bus
