"""Child processes that end with their parent: parent-death signal, own process group, log file.

The kernel sends the signal when the *thread* that forked ends. So start children from the main thread, which lives as
long as the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """Ask the kernel to send `sig` to this process when its parent dies (Linux prctl(2), PR_SET_PDEATHSIG)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0)


def _in_child() -> None:
    os.setpgid(0, 0)
    die_with_parent()


def tail(path: Path, *, lines: int = 12) -> str:
    """Return the last lines of a log, for an error message; "" if there is no log."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


class Child:
    """One child process. `name` is its name in messages; its output goes to the file `log`."""

    def __init__(
        self,
        *,
        name: str,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name, self.argv, self.log = name, list(argv), log
        self._env, self._cwd = dict(env or {}), cwd
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the process, or start it again. Its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._env},
                cwd=self._cwd,
                preexec_fn=_in_child,
            )
        self.starts += 1

    def returncode(self) -> int | None:
        """Return the exit status; None while the process runs, or before its start."""
        return self._process.poll() if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit status. Uses a pidfd instead of a thread."""
        process = self._process
        if process is None:
            raise RuntimeError(f"{self.name} was not started")
        if process.poll() is None:
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            fd = os.pidfd_open(process.pid)
            loop.add_reader(fd, done.set)
            try:
                await done.wait()
            finally:
                loop.remove_reader(fd)
                os.close(fd)
        return process.wait()

    async def stop(self, *, grace: float, first: signal.Signals = signal.SIGTERM) -> int | None:
        """Send `first`, wait `grace` seconds, then kill the whole process group. Return the exit status."""
        if self._process is None:
            return None
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, first)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace)
        self.kill()
        return await self.wait()

    def signal(self, sig: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """Kill the whole process group at once, with the child's own children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
