"""Counts that outlive a SIGKILL: one byte a time, appended to a file a kind."""

from __future__ import annotations

import os
from pathlib import Path


class Tally:
    """Kinds of one process's events; `counts` reads what all processes of a folder counted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[str, int] = {}

    def add(self, kind: str) -> None:
        file = self._files.get(kind)
        if file is None:
            file = self._files[kind] = os.open(self._folder / kind, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, b".")

    def counts(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in sorted(self._folder.iterdir())}

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()
