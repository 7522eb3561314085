"""A Ray actor that keeps one vLLM engine running with the right policy version.

The actor is detached: it survives a killed controller, so the next incarnation finds running engines. Only the actor
has the engine's control secret. Its keeper thread restarts an engine that died or hangs. The restarted engine gets no
requests until it has the newest snapshot.

Invariant: the keeper survives every failure of the engine. It reports the failure (`last_error`, and the log), waits a
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
"""Longest wait between two failed starts."""
HANG_SECONDS = 120.0
"""An engine whose health route does not answer for this long hangs: vLLM answers it between model steps."""


@dataclass(frozen=True)
class EngineStatus:
    """The controller's view of an engine. `routable` only when it is ready with a loaded version."""

    name: str
    state: Literal["starting", "ready", "restarting"] = "starting"
    url: str = ""
    version: str | None = None
    wanted: str | None = None
    """The version that it was last told to serve. None: this actor process was not told any yet."""
    pid: int = 0
    restarts: int = 0
    last_error: str = ""
    serves: str = ""
    """Name and version of the serving software."""

    @property
    def routable(self) -> bool:
        return self.state == "ready" and self.version is not None


class EngineActor:
    """One engine. Methods block, so the actor runs them in threads."""

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
        """Return the status as soon as it differs from `seen`, or after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._status != seen, timeout)
            return self._status

    def load(self, snapshot: Snapshot) -> EngineStatus:
        """Serve a version (pause, update, resume). If that fails, stay unrouted until the keeper recovers it."""
        with self._lock:
            self._snapshot = snapshot
            self._set(replace(self._status, wanted=snapshot.version))
            if self._status.state == "ready":
                self._try_load()
            return self._status

    def adopt(self, snapshot: Snapshot) -> EngineStatus:
        """Take over for a new incarnation: whatever the engine has, paused or not, load this version and resume."""
        with self._lock:
            if self._status.state == "ready":
                with contextlib.suppress(EngineError, SnapshotError, OSError):  # `load` fails too, and reports it
                    self._server.control.recover(snapshot)
            return self.load(snapshot)

    def stop(self) -> None:
        """Stop the engine and its keeper."""
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
            except Exception as error:  # any error: without a keeper the engine would be lost for good
                _log.exception("the keeper of %s failed; it tries again", self._status.name)
                self._lost(f"{type(error).__name__}: {error}")
            failures = 0 if self._status.state == "ready" else failures + 1
            if not failures and self._stopping.wait(CHECK_SECONDS):
                return

    def _look_after(self) -> None:
        """Run one round: start the engine if needed, check that it answers, load its weights."""
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
            # The engine still has its old weights, which are no longer wanted: unrouted, and tried again.
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
