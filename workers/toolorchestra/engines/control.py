"""The control client of one engine: pause, weight update, resume. Every call has a time limit and a status check.

Invariant of an update: afterwards the engine either serves the named version or is paused. It never serves a mix. A
snapshot that fails its checks changes nothing: the engine continues with its old weights.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from toolorchestra.engines.middleware import SECRET_HEADER
from toolorchestra.weights.snapshot import Snapshot, SnapshotError, folder_keys, verify


class EngineError(RuntimeError):
    """An operation on an engine failed. The message says what, with the last lines of its log if there are any."""


class EngineUnreachable(EngineError):
    """The engine did not answer: refused, disconnected, or later than the time limit."""


class EngineRefused(EngineError):
    """The engine answered with a status other than 200."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class UpdateFailed(EngineError):
    """A weight update failed and may have changed weights. The engine stays paused until a good version is loaded."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Time limits in seconds."""

    call: float = 10.0
    pause: float = 60.0
    """The current model step must end first."""
    update: float = 600.0


@dataclass(frozen=True, kw_only=True)
class UpdateSeconds:
    """Durations of the parts of an update. The engine serves no requests from `pause` to `resume`."""

    check: float
    """Check of the snapshot, before the pause. It reads the content only if the file is from another machine."""
    pause: float
    load: float
    resume: float

    @property
    def paused(self) -> float:
        """Seconds for which the engine served no requests."""
        return self.pause + self.load + self.resume

    @property
    def total(self) -> float:
        return self.check + self.paused


@dataclass(frozen=True, kw_only=True)
class EngineControl:
    """Control routes of the engine at host:port. Blocking; one connection per call."""

    host: str
    port: int
    secret: str
    model_dir: str
    timeouts: Timeouts = field(default_factory=Timeouts)

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send one request. Return the JSON of a 200 (None if empty). Raises EngineUnreachable, EngineRefused."""
        target = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body)
        headers = {SECRET_HEADER: self.secret, "Content-Type": "application/json", "Connection": "close"}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout or self.timeouts.call)
        try:
            connection.request(method, target, body=data, headers=headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            late = isinstance(error, (socket.timeout, TimeoutError))
            what = f"no answer within {timeout or self.timeouts.call:g} s" if late else repr(error)
            raise EngineUnreachable(f"{method} {path} at {self.host}:{self.port}: {what}") from error
        finally:
            connection.close()
        if response.status != 200:
            text = content.decode(errors="replace")[:500]
            raise EngineRefused(f"{method} {path} answered {response.status}: {text}", status=response.status)
        return json.loads(content) if content.strip() else None

    def healthy(self, *, timeout: float = 2.0) -> bool:
        """Return whether /health answers 200 within `timeout` seconds."""
        try:
            self.call("GET", "/health", timeout=timeout)
        except EngineError:
            return False
        return True

    def is_paused(self) -> bool:
        return bool(self.call("GET", "/is_paused")["is_paused"])

    def version(self) -> str:
        """Return the version of the weights that it serves; `default` before the first update."""
        return str(self.call("GET", "/weight_info")["weight_version"])

    def init_transfer(self) -> None:
        """Initialise weight updates. Call once per engine process, before the first update."""
        self.call("POST", "/init_weight_transfer_engine", body={"init_info": {}})

    def pause(self) -> None:
        """Freeze requests in flight and clear the prefix cache, so that no KV of old weights is used."""
        query = {"mode": "keep", "clear_cache": "true"}
        self.call("POST", "/pause", query=query, timeout=self.timeouts.pause)

    def resume(self) -> None:
        self.call("POST", "/resume")

    def update(self, snapshot: Snapshot) -> UpdateSeconds:
        """Serve a snapshot. Requests in flight continue; their version spans are split at the switch.

        SnapshotError: nothing changed, the engine serves its old weights. UpdateFailed: the engine stays paused; call
        `recover` with a good snapshot. EngineUnreachable before the pause took effect: nothing changed.
        """
        times = [time.perf_counter()]
        checked = verify(snapshot, want=folder_keys(Path(self.model_dir)))
        for part in (self.pause, partial(self._load, checked), self.resume):
            times.append(time.perf_counter())
            part()
        times.append(time.perf_counter())
        check, pause, load, resume = (end - start for start, end in pairwise(times))
        return UpdateSeconds(check=check, pause=pause, load=load, resume=resume)

    def recover(self, snapshot: Snapshot) -> bool:
        """If a dead controller left the engine paused, load this full version and resume. Return whether it did.

        A pause has no lease, and the weights of a paused engine are unknown, so it is never simply resumed.
        """
        if not self.is_paused():
            return False
        self.update(snapshot)
        return True

    def _load(self, snapshot: Snapshot) -> None:
        limit = self.timeouts.update
        try:
            self._start()
            self.call("POST", "/update_weights", body={"update_info": asdict(snapshot)}, timeout=limit)
            self.call("POST", "/finish_weight_update", body={"weight_version": snapshot.version}, timeout=limit)
            served = self.version()
        except EngineError as error:
            raise UpdateFailed(f"update to {snapshot.version} failed, the engine stays paused: {error}") from error
        if served != snapshot.version:
            raise UpdateFailed(f"the engine serves {served} after the update to {snapshot.version}")

    def _start(self) -> None:
        """Begin an update. If a dead controller left one open, close that first."""
        try:
            self.call("POST", "/start_weight_update")
        except EngineRefused:
            self.call("POST", "/finish_weight_update", body={"weight_version": None}, timeout=self.timeouts.update)
            self.call("POST", "/start_weight_update")


__all__ = [
    "EngineControl",
    "EngineError",
    "EngineRefused",
    "EngineUnreachable",
    "SnapshotError",
    "Timeouts",
    "UpdateFailed",
    "UpdateSeconds",
]
