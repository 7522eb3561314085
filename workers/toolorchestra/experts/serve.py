"""Serves the simulator: binds, announces the URL, runs until a signal, closes."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Callable

from aiohttp import web

from toolorchestra.api.skill_table import SkillTable
from toolorchestra.experts.errors import ExpertError
from toolorchestra.experts.simulator import MAX_HEADER_BYTES, build_app


class SimulatorError(ExpertError):
    """The simulator cannot serve. The message says what to do."""


async def start_simulator(table: SkillTable, *, host: str, port: int, time_scale: float) -> tuple[web.AppRunner, str]:
    """Bind and serve. Return the runner (`await runner.cleanup()` stops it) and the base URL, with `/v1`.

    Port 0 uses a free port.

    Raises:
        SimulatorError: the address cannot be bound.
    """
    # Requests are many and small: an access log would cost more than serving them.
    app = build_app(table, time_scale=time_scale)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, max_field_size=MAX_HEADER_BYTES)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            raise SimulatorError(f"port {port} on {host} is taken: choose another with --port (0: any free)") from error
        raise SimulatorError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return runner, f"http://{host}:{runner.addresses[0][1]}/v1"


async def serve_until_signalled(
    table: SkillTable, *, host: str, port: int, time_scale: float, started: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM. Call `started` with the base URL when requests are answered."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner, url = await start_simulator(table, host=host, port=port, time_scale=time_scale)
    started(url)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()
