"""Trainers without a model: they remember what they were given, and their checkpoints hold it.

What the last checkpoint remembers is the oracle of "trained exactly once in the surviving history": it goes back with a
checkpoint and forth with steps as real weights do.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from toolorchestra.trainer.batch import StepConfig, StepMetrics, TrainSample
from toolorchestra.weights.snapshot import MANIFEST, Snapshot

STATE = "trained.json"
SnapshotWriter = Callable[[Path, str], Snapshot]


def fingerprint(sample: TrainSample) -> str:
    """Names a sample by its tokens and log-probabilities: hardly two samplings are equal."""
    text = json.dumps([list(sample.token_ids), [round(float(p), 5) for p in sample.logprobs]])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def trained_by(folder: Path) -> list[list[str]]:
    """Fingerprints by step, from a checkpoint."""
    found: list[list[str]] = json.loads((folder / STATE).read_text())
    return found


def manifest_snapshot(folder: Path, version: str) -> Snapshot:
    """A snapshot that scripted engines take: a manifest alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps({"version": version, "digest": "", "mark": ""}))
    return Snapshot(path=str(folder), version=version, digest="")


class ScriptedTrainers:
    """A TrainerGroup. `point` is called at the moments in which a real one could die with its controller."""

    def __init__(
        self, *, point: Callable[[str], None], rng: random.Random, snapshot: SnapshotWriter = manifest_snapshot
    ) -> None:
        self._point, self._rng, self._write = point, rng, snapshot
        self._trained: list[list[str]] = []

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Instead of the function of a trainer, what is scripted under its name."""
        return [getattr(self, function.__name__)(*args, **kwargs)]

    def step(self, samples: Sequence[TrainSample], config: StepConfig) -> StepMetrics:
        self._point("train")
        time.sleep(self._rng.uniform(0.001, 0.02))
        self._trained.append([fingerprint(sample) for sample in samples])
        self._point("trained")
        zeros = dict.fromkeys(("loss", "grad_norm", "entropy", "ratio_mean", "ratio_max", "clip_fraction"), 0.0)
        return StepMetrics(
            **zeros,
            masked_fraction=0.0,
            approx_kl=0.0,
            reference_kl=None,
            tokens=sum(len(s.token_ids) for s in samples),
            trained_tokens=1,
            micro_batches=1,
        )

    def snapshot(self, folder: Path, *, version: str, dtype: str) -> Snapshot:
        self._point("snapshot")
        return self._write(folder, version)

    def save(self, folder: Path) -> None:
        (folder / "half").write_text("x")
        self._point("save")
        (folder / STATE).write_text(json.dumps(self._trained))

    def load(self, folder: Path) -> None:
        self._trained = trained_by(folder)

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def anchor(self) -> None: ...

    def set_rng(self, seed: int) -> None: ...

    def supervised_step(self, samples: Iterable[Any], config: StepConfig) -> Any:
        raise NotImplementedError("no warm start here")

    def close(self) -> None: ...
