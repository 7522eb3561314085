"""One vLLM process of the policy: start it, wait until it answers, watch it, stop it.

Invariants: the engine is ready only when /health answers. A start that makes progress (startup.py) may use its whole
time limit. A process that dies or hangs is a typed error with the last lines of its log. The kernel kills the process
when its parent ends (parent-death signal), so no engine outlives its supervisor.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from toolorchestra.engines.arguments import EngineConfig, engine_arguments, engine_environment
from toolorchestra.engines.control import EngineControl, EngineError, Timeouts
from toolorchestra.engines.plugin_path import plugin_environment
from toolorchestra.engines.startup import Patience, Progress, signs_of
from toolorchestra.engines.vllm_plugin import die_with_parent

POLL_SECONDS = 0.1
LOG_LINES = 25


class PortTaken(EngineError):
    """The configured port is in use."""


class EngineDied(EngineError):
    """The vLLM process ended."""


class EngineNotReady(EngineError):
    """The vLLM process runs but did not answer in time."""


def start_from_keeper(spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Spawn a child from a thread that lives as long as the child.

    The parent-death signal fires when the spawning *thread* ends. A thread of the caller's pool may end long before the
    child.
    """
    result: list[subprocess.Popen[bytes] | BaseException] = []
    spawned = threading.Event()

    def keep() -> None:
        try:
            process = spawn()
        except BaseException as error:
            result.append(error)
            spawned.set()
            return
        result.append(process)
        spawned.set()
        process.wait()

    threading.Thread(target=keep, name="engine-keeper", daemon=True).start()
    spawned.wait()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def free_port(host: str, wanted: int) -> int:
    """Return `wanted`, or any free port if it is 0. PortTaken names the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            raise PortTaken(f"port {wanted} on {host} is taken: {error}") from error
        return int(probe.getsockname()[1])


def log_tail(path: Path, lines: int = LOG_LINES) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


class EngineServer:
    """One process of one engine. `start` blocks until it is ready; then `control` can be used."""

    def __init__(self, config: EngineConfig, *, log: Path, timeouts: Timeouts | None = None) -> None:
        self.config = config
        self.log = log
        self.secret = secrets.token_urlsafe(32)
        self._timeouts = timeouts or Timeouts()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = config.port

    @property
    def url(self) -> str:
        """Base URL for the workers."""
        return f"http://{self.config.host}:{self._port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def control(self) -> EngineControl:
        return EngineControl(
            host=self.config.host,
            port=self._port,
            secret=self.secret,
            model_dir=self.config.model_dir,
            timeouts=self._timeouts,
        )

    def start(self, *, patience: Patience | None = None) -> str:
        """Start, wait until ready, and return the URL. Raises PortTaken, EngineDied, EngineNotReady (it is stopped)."""
        self.launch()
        self.wait_ready(patience or Patience(total=self.config.start_seconds))
        return self.url

    def launch(self) -> None:
        """Start the process without waiting."""
        if self.alive():
            raise EngineError("this engine is already running")
        self._port = free_port(self.config.host, self.config.port)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._process = start_from_keeper(self._spawn)

    def _spawn(self) -> subprocess.Popen[bytes]:
        found = plugin_environment(os.environ, folder=self.log.parent / "vllm-plugin")
        with self.log.open("ab") as log:
            return subprocess.Popen(
                engine_arguments(self.config, port=self._port, base=os.environ),
                env=engine_environment(self.config, secret=self.secret, base=os.environ) | found,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C on the terminal must reach only the supervisor, which stops this
                preexec_fn=die_with_parent,
            )

    def wait_ready(self, patience: Patience) -> None:
        """Block until /health answers. An engine that is dead, hanging or late is stopped and reported."""
        progress = Progress(patience, now=time.monotonic())
        while not self.control.healthy():
            self.check()
            if over := progress.over(signs_of(self.pid or 0, self.log), now=time.monotonic()):
                self.stop(grace=0)
                raise EngineNotReady(f"the engine did not answer within {over}:\n{log_tail(self.log)}")
            time.sleep(POLL_SECONDS)
        self.control.init_transfer()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Raise EngineDied, with exit status and last log lines, if the process has ended."""
        if self._process is None:
            raise EngineDied("the engine was never started")
        if (status := self._process.poll()) is not None:
            raise EngineDied(f"vLLM ended with status {status}:\n{log_tail(self.log)}")

    def check_answers(self, *, timeout: float = 10.0) -> None:
        """Raise EngineDied if it has ended, EngineNotReady if it runs without answering (then restart it)."""
        self.check()
        if not self.control.healthy(timeout=timeout):
            self.check()
            raise EngineNotReady(f"the engine does not answer within {timeout:g} s:\n{log_tail(self.log)}")

    def stop(self, *, grace: float = 10.0) -> None:
        """Stop the process and its children: SIGTERM, then SIGKILL after `grace` seconds. Idempotent."""
        if self._process is None:
            return
        if self._process.poll() is None and grace > 0:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the group has only our processes: start_new_session
        self._process.wait()
