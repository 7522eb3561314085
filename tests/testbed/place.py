"""The machine's one place for a cluster with a node: its addresses and cgroups are fixed, so there is room for one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.binaries import cache_folder
from testbed.packages import CannotRun


def _lock() -> Path:
    path = cache_folder() / "cluster.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def taken() -> Iterator[None]:
    """Hold the place; the kernel gives it back when this process ends in whatever way.

    Raises:
        CannotRun: another process holds it.
    """
    with _lock().open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotRun("a cluster is up on this machine already: `make cluster-down` ends it") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def holder() -> int | None:
    """The process that holds the place, if one does."""
    with _lock().open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            return int(file.read())
    return None
