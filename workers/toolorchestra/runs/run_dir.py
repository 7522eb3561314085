"""A run's folder: who writes what where. Everything a person or `orchestra` wants to know of a run is a file here.

manifest.json        what runs: resources resolved, versions, seed, how it was started; a line per supervisor's life
status.json          state, step, spend, engines: replaced atomically; what `orchestra status` prints
metrics.jsonl        one line per step, and per step of the warm start
events.jsonl         one line per thing that happened (incarnations, restarts, engines lost, evaluations, the end)
journal/journal.bin  the ledger's truth (journal.py); journal.synced beside it: up to where it was fsynced
checkpoints/         step-NNNNNNNN/, each complete or absent; best.json names the best one (checkpoint.py)
weights/             the snapshots that engines load; the newest two stay
evaluations/         <suite>/<system>.traces, frames like the journal's
evaluations-during/  the same for the policy at some steps: <suite>/policy-NNNNNN.traces
export/              last/ and best/: Hugging Face folders
logs/                one per process

Beside them: what the supervisor tells its processes (resources.yaml, pools.json, driver.json, ray.json), nats/,
supervisor.lock, and the report (report.json, report.html).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


def write_atomically(path: Path, text: str) -> None:
    """Replace the file's content so that a reader, or a kill, sees the old or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class Unreadable(ValueError):
    """A file of the run's folder does not read; the text says which, and what to do."""


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file. A line that a kill, a full disk or a power cut tore is left out, and said in the log."""
    if path.exists():
        rows, torn = rows_of(path.read_bytes())
        if torn:
            _log.warning("%s: %d torn lines are left out (a kill or a full disk)", path, torn)
        yield from rows


def rows_of(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The rows in whole lines, and how many lines are none. What follows the last newline counts as torn."""
    *lines, tail = content.split(b"\n")
    rows = [_row(line) for line in lines]
    return [row for row in rows if row is not None], rows.count(None) + bool(tail)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


@dataclass(frozen=True)
class RunDir:
    """Paths of one run, and the few ways of writing there."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def journal(self) -> Path:
        return self.root / "journal" / "journal.bin"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.root / "weights"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"

    @property
    def evaluations_during(self) -> Path:
        return self.root / "evaluations-during"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def event(self, kind: str, message: str, **fields: Any) -> None:
        """Append one event; `message` is for people."""
        self._append(self.events, {"time": round(time.time(), 3), "event": kind, "message": message, **fields})

    def metric(self, row: Mapping[str, Any]) -> None:
        """Append one step's metrics."""
        self._append(self.metrics, row)

    def set_status(self, status: Mapping[str, Any]) -> None:
        write_atomically(self.status, json.dumps(status, indent=1) + "\n")

    def read_status(self) -> dict[str, Any]:
        """The last status; empty before the first. Unreadable: it was written halfway."""
        if not self.status.exists():
            return {}
        return _read_object(self.status, remedy="remove it: it is written anew when the run goes on")

    def read_manifest(self) -> dict[str, Any]:
        """What the run is. Unreadable: it was written halfway."""
        return _read_object(self.manifest, remedy="restore it from a copy, or start a new run")

    @staticmethod
    def _append(path: Path, row: Mapping[str, Any]) -> None:
        """One write for the whole line, after ending one that an earlier writer left torn."""
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        with path.open("ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                line = b"\n" + line
            file.write(line)


def _read_object(path: Path, *, remedy: str) -> dict[str, Any]:
    found = _row(path.read_bytes())
    if found is None:
        raise Unreadable(f"{path}: holds no whole JSON object (written halfway, or damaged); {remedy}")
    return found
