"""One supervisor per run: a lock that the kernel drops with its holder, however that ends."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import TextIO

from toolorchestra.train.run_dir import RunDir


class RunLocked(Exception):
    """Somebody else runs it; the text says who."""


class RunLock:
    """A context manager; `pid` of the holder stands in the file, for `orchestra cancel`."""

    def __init__(self, run: RunDir) -> None:
        self._path = run.root / "supervisor.lock"
        self._run = run
        self._file: TextIO | None = None

    def __enter__(self) -> RunLock:
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise RunLocked(
                f"{self._run.root} is running already, as process {holder}: see `orchestra status`"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def check(self) -> None:
        """RunLocked where somebody holds it."""
        with self:
            pass

    def holder(self) -> int | None:
        """Process that runs it now; None: nobody."""
        try:
            self.check()
        except RunLocked:
            return int(self._path.read_text().strip())
        return None
