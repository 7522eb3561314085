"""A process whose event loop stands still ends itself, so that whoever keeps it alive starts a new one.

The timer is the kernel's and the handler is C (faulthandler's, then `_exit`): both work while some thread holds the GIL
and no Python code can run. Its last words are the stacks of all threads; its exit status is `STOOD_STILL`, also as
process 1 of a container, where a signal's default action would be ignored.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
from pathlib import Path

STOOD_STILL = int(signal.SIGALRM)
"""Exit status, 14: `_exit` gets the signal's number."""
STALL_SECONDS = 60.0
"""Longer than anything that a worker's loop does in one piece, on a machine that is busy."""

_log = logging.getLogger(__name__)


class Heartbeat:
    """`begin` once, `beat` from the loop at least every few seconds, `end` before the process is to end by itself.

    `file`, where given, is touched by every beat: for a probe from outside. Main thread only (signals).
    """

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, file: Path | None = None) -> None:
        self._stall_seconds = stall_seconds
        self._file = file

    def begin(self) -> None:
        """From now on a loop that does not beat for `stall_seconds` ends the process."""
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        libc.signal(signal.SIGALRM, ctypes.cast(libc._exit, ctypes.c_void_p))
        # Writes every thread's stack, then calls the handler that was there before.
        faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
        _log.info(
            "where the event loop stands still for %g s this process ends with status %d and the stacks of its threads",
            self._stall_seconds,
            STOOD_STILL,
        )
        self.beat()

    def beat(self) -> None:
        """The loop is alive."""
        signal.setitimer(signal.ITIMER_REAL, self._stall_seconds)
        if self._file is not None:
            self._file.touch()
            os.utime(self._file)

    def end(self) -> None:
        """The loop is about to end. Idempotent."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.unregister(signal.SIGALRM)
