"""A Ray actor that keeps one vLLM engine alive and on the right version.

The actor is detached: it outlives a killed controller, so a new incarnation finds its engines warm. It alone holds the
engine's control secret. A keeper thread restarts an engine that died or hangs; the restarted engine is unrouted until
the newest snapshot is in it.

Invariant: the keeper outlives whatever goes wrong with the engine. It says it (`last_error`, and the log), waits a
little longer each time, and tries again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import ray

from toolorchestra.engines.arguments import EngineConfig
from toolorchestra.engines.control import EngineError
from toolorchestra.engines.server import EngineServer
from toolorchestra.weights.snapshot import Snapshot, SnapshotError

_log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
BACK_OFF_SECONDS = 60.0
"""Most that is waited between two starts that fail."""
HANG_SECONDS = 120.0
"""A health route that stays silent for this long belongs to a hung engine: vLLM answers it between model steps."""


@dataclass(frozen=True)
class EngineStatus:
    """What the controller sees of an engine. `routable` only with the newest weights in place."""

    name: str
    state: Literal["starting", "ready", "restarting"] = "starting"
    url: str = ""
    version: str | None = None
    wanted: str | None = None
    """The version that it was told to serve last; None: nobody has told this life of the actor."""
    pid: int = 0
    restarts: int = 0
    last_error: str = ""
    serves: str = ""
    """Name and version of the serving engine."""

    @property
    def routable(self) -> bool:
        return self.state == "ready" and self.version is not None


class EngineActor:
    """One engine. Methods block: the actor runs them in threads."""

    def __init__(self, *, name: str, config: EngineConfig, log: Path, on_node: bool = False) -> None:
        if on_node:
            config = replace(config, host=ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self._server = EngineServer(config, log=log)
        self._status = EngineStatus(name)
        self._snapshot: Snapshot | None = None
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        threading.Thread(target=self._keep, name="engine-watch", daemon=True).start()

    # ── the controller's calls ─────────────────────────────────────────────────────────────────────────────────

    def status(self) -> EngineStatus:
        return self._status

    def wait_status(self, seen: EngineStatus, timeout: float) -> EngineStatus:
        """The status as soon as it differs from `seen`, or after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._status != seen, timeout)
            return self._status

    def load(self, snapshot: Snapshot) -> EngineStatus:
        """Put a version in service (pause, update, resume); or stay unrouted until the keeper mends it."""
        with self._lock:
            self._snapshot = snapshot
            self._set(replace(self._status, wanted=snapshot.version))
            if self._status.state == "ready":
                self._try_load()
            return self._status

    def adopt(self, snapshot: Snapshot) -> EngineStatus:
        """A new incarnation takes over: whatever the engine holds, paused or not, load this version and resume."""
        with self._lock:
            if self._status.state == "ready":
                with contextlib.suppress(EngineError, SnapshotError, OSError):  # `load` meets it again, and says it
                    self._server.control.recover(snapshot)
            return self.load(snapshot)

    def stop(self) -> None:
        """End the engine and its keeper."""
        self._stopping.set()
        self._server.stop()

    # ── keeping it alive ───────────────────────────────────────────────────────────────────────────────────────

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.wait(min(BACK_OFF_SECONDS, CHECK_SECONDS * 2**failures) if failures else 0):
            try:
                self._look_after()
            except EngineError as error:
                self._lost(str(error))
            except Exception as error:  # whatever it is: without a keeper the engine would be gone for good
                _log.exception("the keeper of %s", self._status.name)
                self._lost(f"{type(error).__name__}: {error}")
            failures = 0 if self._status.state == "ready" else failures + 1
            if not failures and self._stopping.wait(CHECK_SECONDS):
                return

    def _look_after(self) -> None:
        """One round: start the engine where it does not run, see whether it answers, bring it its weights."""
        if self._status.state != "ready":
            self._start()
            return
        self._server.check_answers(timeout=HANG_SECONDS)
        with self._lock:
            if self._snapshot is not None and self._status.version is None:
                self._try_load()

    def _start(self) -> None:
        self._server.stop(grace=0)
        url = self._server.start()
        if self._stopping.is_set():
            self._server.stop()
            return
        with self._lock:
            version, pid = self._vllm_version(), self._server.pid or 0
            self._set(replace(self._status, state="ready", url=url, version=None, pid=pid, serves=version))
            if self._snapshot is not None:
                self._try_load()

    def _vllm_version(self) -> str:
        return f"vLLM {self._server.control.call('GET', '/version')['version']}"

    def _try_load(self) -> None:
        snapshot = self._snapshot
        assert snapshot is not None
        try:
            self._server.control.update(snapshot)
        except EngineError as error:
            self._lost(str(error))
        except (OSError, SnapshotError) as error:
            # The engine is as it was, with weights that are not wanted any more: unrouted, and tried again.
            self._set(replace(self._status, version=None, last_error=f"{snapshot.version} cannot be read: {error}"))
        else:
            self._set(replace(self._status, version=snapshot.version))

    def _lost(self, error: str) -> None:
        status = self._status
        if not self._stopping.is_set():
            self._set(replace(status, state="restarting", version=None, restarts=status.restarts + 1, last_error=error))

    def _set(self, status: EngineStatus) -> None:
        with self._changed:
            self._status = status
            self._changed.notify_all()
