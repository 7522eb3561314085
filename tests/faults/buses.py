"""A RolloutBus that does what buses do on bad days: drop, refuse, repeat, and lose acknowledgements."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from faults.life import Life
from faults.plan import MessageRates
from faults.tally import Tally
from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.protocol import BusUnavailable, Change, Depth, Lease, Received, RolloutBus, Withdrawn

REMEMBERED = 50
"""Results that may come once more much later."""


class FaultyBus:
    """One life's end of a bus."""

    def __init__(
        self,
        inner: RolloutBus,
        *,
        life: Life,
        rates: MessageRates,
        rng: random.Random,
        seen: Tally,
        shared: bool = False,
    ) -> None:
        self._inner, self._life, self._rates, self._rng, self._seen = inner, life, rates, rng, seen
        self._shared = shared
        self._past: deque[Received] = deque(maxlen=REMEMBERED)

    @property
    def ack_wait(self) -> float:
        return self._inner.ack_wait

    def _meets(self, fault: str) -> bool:
        if self._rng.random() >= getattr(self._rates, fault):
            return False
        self._seen.add(fault)
        return True

    async def _send(self, send: Callable[[], Awaitable[None]]) -> None:
        if self._meets("refused"):
            raise BusUnavailable("refused by the harness")
        await send()
        if self._meets("lost_ack"):
            raise BusUnavailable("taken, and the acknowledgement lost, by the harness")

    # ── controller ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, task: Envelope) -> None:
        self._life.point("submit")
        if self._meets("lost_order"):
            return
        await self._send(lambda: self._inner.submit(task))
        self._life.point("submitted")

    async def cancel(self, ids: Iterable[str]) -> Withdrawn:
        self._life.point("withdraw")
        withdrawn = await self._inner.cancel(ids)
        self._life.point("withdrawn")
        return withdrawn

    async def drain(self) -> Withdrawn:
        self._life.point("withdraw")
        withdrawn = await self._inner.drain()
        self._life.point("withdrawn")
        return withdrawn

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        return await self._inner.unseen(ids)

    async def answered(self) -> frozenset[str]:
        return await self._inner.answered()

    async def results(self) -> AsyncIterator[Received]:
        async for received in self._inner.results():
            self._life.point("received")
            self._past.append(received)
            yield received
            if self._meets("twice"):
                yield self._rng.choice((received, self._past[self._rng.randrange(len(self._past))]))

    async def ack(self, received: Received) -> None:
        self._life.point("ack")
        if not self._meets("unacked"):
            await self._inner.ack(received)
        self._life.point("acked")

    async def depth(self) -> Depth:
        return await self._inner.depth()

    # ── worker ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def lease(self, *, max_n: int, expiry: float) -> list[Lease]:
        self._life.point("lease")
        return await self._inner.lease(max_n=max_n, expiry=expiry)

    async def heartbeat(self, lease: Lease) -> None:
        self._life.point("heartbeat")
        await self._inner.heartbeat(lease)

    async def complete(self, lease: Lease, result: Envelope) -> None:
        self._life.point("complete")
        await self._send(lambda: self._inner.complete(lease, result))
        self._seen.add("played")
        if self._meets("twice"):
            await self._inner.complete(lease, result)

    async def defer(self, lease: Lease, result: Envelope) -> None:
        self._life.point("defer")
        await self._send(lambda: self._inner.defer(lease, result))

    async def fail(self, lease: Lease, result: Envelope) -> None:
        self._life.point("fail")
        await self._send(lambda: self._inner.fail(lease, result))

    async def hand_back(self, lease: Lease) -> None:
        self._life.point("hand_back")
        await self._inner.hand_back(lease)

    # ── shared state ───────────────────────────────────────────────────────────────────────────────────────────────

    async def put(self, key: str, value: bytes) -> None:
        self._life.point("put")
        await self._inner.put(key, value)

    async def get(self, key: str) -> bytes | None:
        return await self._inner.get(key)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        return self._inner.watch(prefix)

    async def close(self) -> None:
        """A memory bus is everybody's: it stays."""
        if not self._shared:
            await self._inner.close()
