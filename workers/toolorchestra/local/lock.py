"""A lock that allows one supervisor per run; the kernel releases it when the process ends, in whatever way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from types import TracebackType
from typing import TextIO

from toolorchestra.local.errors import MachineError
from toolorchestra.runs.run_dir import RunDir

TRIES = 5
RETRY_SECONDS = 0.02


class RunLocked(MachineError):
    """Another process runs the run; the text has its process id."""


class RunLock:
    """The lock as a context manager. Its file has the holder's process id, for `orchestra status` and `cancel`."""

    def __init__(self, run: RunDir) -> None:
        self._path = run.root / "supervisor.lock"
        self._run = run
        self._file: TextIO | None = None

    def __enter__(self) -> RunLock:
        file = self._path.open("a+")
        if not _locked(file):
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise RunLocked(f"{self._run.root} is running already, as process {holder}: see `orchestra status`")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    def check(self) -> None:
        """Raise RunLocked where another process holds the lock."""
        if (holder := self.holder()) is not None:
            raise RunLocked(f"{self._run.root} is running already, as process {holder}: see `orchestra status`")

    def holder(self) -> int | None:
        """Return the id of the process that runs the run now; None where no process does. Does not take the lock."""
        try:
            file = self._path.open()
        except FileNotFoundError:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None  # just taken: its process id is not written yet
        return None


def _locked(file: TextIO) -> bool:
    """Take the lock, with a few tries, because `holder` takes a shared lock for an instant."""
    for _ in range(TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(RETRY_SECONDS)
    return False
