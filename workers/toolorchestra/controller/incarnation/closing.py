"""What an incarnation has opened, and how it is closed: the last first, and all of it, whatever fails."""

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
    """Whoever opens a part adds its end here before anything else can fail."""

    _opened: list[_Opened] = field(default_factory=list[_Opened])

    def add(self, close: Callable[[], Awaitable[None] | None], *, stays_warm: bool = False) -> None:
        """`stays_warm`: the next incarnation can go on with it."""
        self._opened.append(_Opened(close, stays_warm))

    async def close(self, *, keep_warm: bool) -> None:
        """Close all; `keep_warm`: but for what stays warm. The first part that cannot be closed raises, at the end."""
        async with AsyncExitStack() as stack:
            for one in self._opened:
                if not (keep_warm and one.stays_warm):
                    stack.push_async_callback(_end, one)


async def _end(one: _Opened) -> None:
    ending = one.close()
    if ending is not None:
        await ending


async def bounded(work: Awaitable[None], *, seconds: float) -> None:
    """Wait for it, but not for ever; how it ended is nobody's concern."""
    await asyncio.wait({asyncio.ensure_future(work)}, timeout=seconds)
