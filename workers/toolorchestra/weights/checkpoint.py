"""Checkpoints: one folder per step, with one manifest for the whole job, written last and atomically. No torch here.

Invariants: a folder under its final name is complete (it is filled under a temporary name, synced, then renamed). The
manifest has the size and sha256 of every other file, so a later loss is detected. `latest` skips checkpoints that fail
verification. The last good checkpoint and the best one are never pruned.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolorchestra.disk import sync
from toolorchestra.weights.errors import WeightsError
from toolorchestra.weights.snapshot import file_digest

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
BEST = "best.json"
SCHEMA = 1
_NAME = re.compile(r"step-(\d+)")


class CheckpointError(WeightsError, RuntimeError):
    """A checkpoint is missing, incomplete or damaged. The message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. `job` is the controller's part of the manifest, as given to `commit`."""

    path: Path
    step: int
    job: Mapping[str, Any]
    digest: str
    """sha256 of the manifest. The manifest has the digests of all files, so this identifies the whole content."""


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder) != Path(MANIFEST))


def verify_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a checkpoint: every file must exist, with the size and digest in the manifest."""
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = json.loads(content)
        step, files, job = int(manifest["step"]), dict(manifest["files"]), dict(manifest["job"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} has no readable manifest: {error!r}") from error
    if manifest.get("schema") != SCHEMA:
        raise CheckpointError(f"{folder} has manifest schema {manifest.get('schema')}, not {SCHEMA}")
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if path.stat().st_size != entry["bytes"] or file_digest(path) != entry["sha256"]:
            raise CheckpointError(f"{path} is damaged")
    return Checkpoint(folder, step, job, hashlib.sha256(content).hexdigest())


class CheckpointStore:
    """The checkpoints of one run under `root`. There is one writer."""

    def __init__(self, root: Path, *, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError("keep at least one checkpoint")
        self.root, self.keep = root, keep

    def folder(self, step: int) -> Path:
        return self.root / f"step-{step:08d}"

    def begin(self, step: int) -> Path:
        """Return an empty folder to fill. Readers do not see it before `commit`."""
        partial = self.root / f".{self.folder(step).name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def commit(self, step: int, *, job: Mapping[str, Any]) -> Checkpoint:
        """Finish what was written since `begin(step)`: sync it, write the manifest last, rename, prune.

        `job`: JSON of the controller: schedule, source cursors, journal offset, incarnation, staleness state, …
        A folder of the same step, perhaps from an earlier incarnation, is replaced.
        """
        partial = self.root / f".{self.folder(step).name}.partial"
        files = _files(partial)
        if not files:
            raise CheckpointError(f"nothing was written to {partial}")
        entries = {str(p.relative_to(partial)): {"bytes": p.stat().st_size, "sha256": file_digest(p)} for p in files}
        for path in files:
            sync(path)
        manifest = {"schema": SCHEMA, "step": step, "files": entries, "job": dict(job)}
        temporary = partial / f"{MANIFEST}.partial"
        temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True))
        sync(temporary)
        temporary.rename(partial / MANIFEST)
        sync(partial)
        final = self.folder(step)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync(self.root)
        digest = file_digest(final / MANIFEST)
        self.prune()
        return Checkpoint(final, step, dict(job), digest)

    def steps(self) -> list[int]:
        """Return the steps that have a folder, oldest first. `verify_checkpoint` checks whether they are whole."""
        if not self.root.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.root.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that verifies, or None. Damaged newer ones are logged and skipped."""
        for step in reversed(self.steps()):
            try:
                return verify_checkpoint(self.folder(step))
            except CheckpointError as error:
                logger.warning("checkpoint of step %d is skipped: %s", step, error)
        return None

    def mark_best(self, step: int, *, score: Mapping[str, float] | None = None) -> None:
        """Protect the checkpoint of `step` as the best. CheckpointError if it does not verify.

        `score`: its score as JSON, for the next comparison.
        """
        checkpoint = verify_checkpoint(self.folder(step))
        temporary = self.root / f"{BEST}.partial"
        best = {"step": checkpoint.step, "digest": checkpoint.digest, "score": dict(score or {})}
        temporary.write_text(json.dumps(best))
        sync(temporary)
        temporary.rename(self.root / BEST)
        sync(self.root)

    def best_step(self) -> int | None:
        """Return the step that `mark_best` named last, or None."""
        best = self._best()
        return None if best is None else int(best["step"])

    def best_score(self) -> dict[str, float] | None:
        """Return the score of the best checkpoint. None if none is marked, or if it has no score."""
        return (self._best() or {}).get("score") or None

    def _best(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.root / BEST).read_text()))
        except FileNotFoundError:
            return None

    def prune(self) -> None:
        """Remove all but the newest `keep` and the best. If none of the newest is whole, keep the last good one too."""
        steps = self.steps()
        kept = {*steps[-self.keep :], self.best_step()}
        doomed = [step for step in steps if step not in kept]
        if not doomed:
            return
        last_good = self.latest()
        for step in doomed:
            if last_good is None or step != last_good.step:
                shutil.rmtree(self.folder(step))
