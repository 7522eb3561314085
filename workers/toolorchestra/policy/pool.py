"""The engines of one training: chooses the engine for a request, and waits while none may be asked.

Invariants: a request goes to the routable engine with the fewest requests in flight. Service time includes neither
waiting for an engine nor pauses of the engines. Every wait has a limit. At the limit it raises `NoEngine` if the
training's last update has no engine that may be asked, and `EngineLost` otherwise: then the training believes in an
engine that refuses our requests, and only this pool knows it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolorchestra.policy.engine import (
    EngineLost,
    EngineRefusedConnection,
    Generation,
    GenerationParameters,
    NoEngine,
    VLLMEngine,
)

_COOL_DOWN_SECONDS = 2.0
"""Time for which an engine that refused a connection is skipped, unless an update lists it again."""


@dataclass(frozen=True)
class EngineRecord:
    """One engine, as the training publishes it: `{"url", "version", "routable"}`."""

    url: str
    version: str | None = None
    routable: bool = True

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> EngineRecord:
        """Return the record in the key-value bucket's JSON. Other keys are ignored."""
        return cls(url=str(data["url"]), version=data.get("version"), routable=bool(data.get("routable", True)))


@dataclass
class _Slot:
    record: EngineRecord
    client: VLLMEngine
    in_flight: int = 0
    skip_until: float = 0.0


class EnginePool:
    """Routes generations. Call `update` whenever the training publishes a new state of its engines."""

    def __init__(
        self,
        *,
        connect: Callable[[str], VLLMEngine],
        records: Iterable[EngineRecord] = (),
        wait_seconds: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._slots: dict[str, _Slot] = {}
        self._changed = asyncio.Event()
        self._paused_at: float | None = None
        self._paused_total = 0.0
        self._told = False
        """Whether the training has published a state yet."""
        if known := tuple(records):
            self.update(known)

    @property
    def paused(self) -> bool:
        return self._paused_at is not None

    @property
    def paused_seconds(self) -> float:
        """Total seconds for which the engines have been paused, including the current pause."""
        running = 0.0 if self._paused_at is None else self._clock() - self._paused_at
        return self._paused_total + running

    def update(self, records: Iterable[EngineRecord], *, paused: bool = False) -> None:
        """Replace the routing state. Engines that stay keep their in-flight counts."""
        self._slots = {record.url: self._slot(record) for record in records}
        self._told = True
        now = self._clock()
        if paused and self._paused_at is None:
            self._paused_at = now
        elif not paused and self._paused_at is not None:
            self._paused_total += now - self._paused_at
            self._paused_at = None
        self._wake()

    def _slot(self, record: EngineRecord) -> _Slot:
        """Return the slot of a known engine (which counts its requests in flight), or a new slot."""
        slot = self._slots.get(record.url)
        if slot is None:
            return _Slot(record, self._connect(record.url))
        slot.record, slot.skip_until = record, 0.0
        return slot

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _choose(self, version: str | None) -> _Slot | None:
        if self.paused:
            return None
        now = self._clock()
        able = [
            slot
            for slot in self._slots.values()
            if slot.record.routable and slot.skip_until <= now and version in (None, slot.record.version)
        ]
        return min(able, key=lambda slot: slot.in_flight, default=None)

    def _out(self) -> bool:
        """Return whether the training reports that no engine may be asked."""
        return self._told and (self.paused or not any(slot.record.routable for slot in self._slots.values()))

    async def _acquire(self, version: str | None, *, deadline: float) -> _Slot:
        while (slot := self._choose(version)) is None:
            remaining = deadline - self._clock()
            if remaining <= 0:
                wanted = "engine" if version is None else f"engine with version {version}"
                state = "paused" if self.paused else f"{len(self._slots)} known"
                lost = NoEngine if self._out() else EngineLost
                raise lost(f"no routable {wanted} in {self._wait_seconds:g} s ({state})")
            changed = self._changed
            try:
                async with asyncio.timeout(min(remaining, _COOL_DOWN_SECONDS)):
                    await changed.wait()
            except TimeoutError:
                continue  # the skip time of an engine may be over; the deadline is checked above
        return slot

    async def routable(self, *, version: str | None = None) -> None:
        """Wait until an engine may be asked, with the same time limit as `generate`."""
        await self._acquire(version, deadline=self._clock() + self._wait_seconds)

    async def generate(
        self, prompt: Sequence[int], *, parameters: GenerationParameters, version: str | None = None
    ) -> Generation:
        """Generate on the least busy engine. After a refused connection, try the next engine: nothing was generated."""
        begin = self._clock()
        while True:
            slot = await self._acquire(version, deadline=begin + self._wait_seconds)
            slot.in_flight += 1
            paused_before = self.paused_seconds
            try:
                generation = await slot.client.generate(
                    prompt, parameters=parameters, version=version, started_with=slot.record.version
                )
            except EngineRefusedConnection:
                slot.skip_until = self._clock() + _COOL_DOWN_SECONDS
                continue
            finally:
                slot.in_flight -= 1
            paused = self.paused_seconds - paused_before
            return dataclasses.replace(
                generation,
                service_seconds=max(0.0, generation.service_seconds - paused),
                wall_seconds=self._clock() - begin,
            )
