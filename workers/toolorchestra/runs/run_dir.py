"""The folder of a run. It holds everything that a person or `orchestra` may want to know about the run.

manifest.json        what runs: resolved resources, versions, seed, how it was started; a line per supervisor start
status.json          state, step, spend, engines; replaced atomically; `orchestra status` prints it
metrics.jsonl        one line per step, and per step of the warm start
events.jsonl         one line per event (incarnations, restarts, engines lost, evaluations, the end)
journal/journal.bin  the ledger's journal (journal.py); journal.synced: up to where it is fsynced
checkpoints/         step-NNNNNNNN/, each complete or absent; best.json names the best one (checkpoint.py)
weights/             snapshots that engines load; the newest two are kept
evaluations/         <suite>/<system>.traces, frames like the journal's
evaluations-during/  the same for the policy at some steps: <suite>/policy-NNNNNN.traces
export/              last/ and best/: Hugging Face folders
logs/                one per process

Also here: the supervisor's configuration of its processes (resources.yaml, pools.json, driver.json, ray.json), nats/,
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
    """Replace the file's content atomically: readers see the old or the new content, also after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class Unreadable(ValueError):
    """A file of the run's folder cannot be read. The text says which one, and what to do."""


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file. Lines that a kill, a full disk or a power cut damaged are skipped and logged."""
    if path.exists():
        rows, torn = rows_of(path.read_bytes())
        if torn:
            _log.warning("%s: skipped %d incomplete lines (a kill or a full disk)", path, torn)
        yield from rows


def rows_of(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the rows, and how many lines are not rows. Bytes after the last newline count as such a line."""
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
    """Paths of one run, and the functions that write there."""

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
        """Return the last status; empty before the first. Unreadable: the file is incomplete or damaged."""
        if not self.status.exists():
            return {}
        return _read_object(self.status, remedy="remove it: it is written again when the run continues")

    def read_manifest(self) -> dict[str, Any]:
        """Return the run's manifest. Unreadable: the file is incomplete or damaged."""
        return _read_object(self.manifest, remedy="restore it from a copy, or start a new run")

    @staticmethod
    def _append(path: Path, row: Mapping[str, Any]) -> None:
        """Append a line in one write. If an earlier writer left an incomplete line, end it first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        with path.open("ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                line = b"\n" + line
            file.write(line)


def _read_object(path: Path, *, remedy: str) -> dict[str, Any]:
    found = _row(path.read_bytes())
    if found is None:
        raise Unreadable(f"{path}: not a complete JSON object (written halfway, or damaged); {remedy}")
    return found
