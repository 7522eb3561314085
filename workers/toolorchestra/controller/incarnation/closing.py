"""Closes the parts that an incarnation has opened: the last first, and all of them, even if one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field


@dataclass(frozen=True)
class _Opened:
    close: Callable[[], Awaitable[None] | None]
    stays_warm: bool


@dataclass
class Closing:
    """The opened parts. Code that opens a part must add its `close` here before anything else can fail."""

    _opened: list[_Opened] = field(default_factory=list[_Opened])

    def add(self, close: Callable[[], Awaitable[None] | None], *, stays_warm: bool = False) -> None:
        """Register a part's `close`. `stays_warm`: the next incarnation can reuse the part."""
        self._opened.append(_Opened(close, stays_warm))

    async def close(self, *, keep_warm: bool) -> None:
        """Close all parts; with `keep_warm`, except those that stay warm. An error is raised after all are closed."""
        async with AsyncExitStack() as stack:
            for one in self._opened:
                if not (keep_warm and one.stays_warm):
                    stack.push_async_callback(_end, one)


async def _end(one: _Opened) -> None:
    ending = one.close()
    if ending is not None:
        await ending


async def bounded(work: Awaitable[None], *, seconds: float) -> None:
    """Wait for the work for at most `seconds`; its result and its errors are ignored."""
    await asyncio.wait({asyncio.ensure_future(work)}, timeout=seconds)
