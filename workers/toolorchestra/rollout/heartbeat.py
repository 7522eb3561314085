"""Ends a process whose event loop hangs, so that its supervisor starts a new one.

The timer is the kernel's. The handlers are C code (faulthandler's, then `_exit`), so they work even while a thread
holds the GIL and no Python code can run. Before it ends, the process writes the stacks of all threads. Its exit status
is `STOOD_STILL`, also as process 1 of a container, where the default action of a signal would be ignored.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
from pathlib import Path

STOOD_STILL = int(signal.SIGALRM)
"""Exit status 14: `_exit` receives the number of the signal."""
STALL_SECONDS = 60.0
"""Longer than any single step of a worker's event loop, even on a busy machine."""

_log = logging.getLogger(__name__)


class Heartbeat:
    """A watchdog for the event loop. Call `begin` once, `beat` from the loop every few seconds, `end` before exit.

    `file`, if given, is touched by every beat, for an external probe. Main thread only, because it uses signals.
    """

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, file: Path | None = None) -> None:
        self._stall_seconds = stall_seconds
        self._file = file

    def begin(self) -> None:
        """Start: from now on, a loop without a beat for `stall_seconds` ends the process."""
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        libc.signal(signal.SIGALRM, ctypes.cast(libc._exit, ctypes.c_void_p))
        # Writes every thread's stack, then calls the previous handler.
        faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
        _log.info(
            "if the event loop hangs for %g s, this process ends with status %d and writes the stacks of its threads",
            self._stall_seconds,
            STOOD_STILL,
        )
        self.beat()

    def beat(self) -> None:
        """Report that the loop is alive."""
        signal.setitimer(signal.ITIMER_REAL, self._stall_seconds)
        if self._file is not None:
            self._file.touch()
            os.utime(self._file)

    def end(self) -> None:
        """Stop the timer, because the loop is about to end. Idempotent."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.unregister(signal.SIGALRM)
