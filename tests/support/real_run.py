"""A real `orchestra` command as its user sees it: a process, what it prints, the folder that it writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from toolorchestra.runs.run_dir import RunDir

TINY_RUN = Path(__file__).resolve().parent / "tiny_run"
TICK_SECONDS = 0.05


class RealRun:
    """Runs under `folder/runs`. `patience`: seconds until something that must happen has happened."""

    def __init__(self, folder: Path, *, patience: float, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.log = folder, folder / "orchestra.log"
        self.patience = patience
        self._environment = {**os.environ, **(environment or {})}
        self.started: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        """Start the command in a session of its own; its words are appended to the log."""
        with self.log.open("ab") as log:
            self.started = subprocess.Popen(
                [sys.executable, "-m", "toolorchestra.cli.main", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """What was started last."""
        assert self.started is not None, "start() first"
        return self.started

    @property
    def dir(self) -> RunDir:
        return RunDir(next((self.folder / "runs").iterdir()))

    def words(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def until(self, what: str, test: Callable[[], bool]) -> None:
        """Wait for a fact that other processes write into files; the command's own end ends the wait at once."""
        deadline = time.monotonic() + self.patience
        while not test():
            if self._ends_within(TICK_SECONDS) or time.monotonic() > deadline:
                raise AssertionError(f"{what} never came; the run's last words:\n{self.words()[-3000:]}")

    def _ends_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
