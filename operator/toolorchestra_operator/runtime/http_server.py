"""A small HTTP server in the event loop: if the loop is blocked, the pages do not answer, and the probes notice it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

Page = Callable[[], Awaitable[web.Response]]


class HttpServer:
    """Serves pages, by path."""

    def __init__(self, pages: Mapping[str, Page], *, host: str, port: int) -> None:
        self._pages, self._host, self._port = pages, host, port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Open the port. OSError: the port is taken."""
        app = web.Application()
        for path, page in self._pages.items():
            app.router.add_get(path, _handler(page))
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._runner is not None:
            await self._runner.cleanup()


def _handler(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return await page()

    return answer
