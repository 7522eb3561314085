"""Reads the data of a run's folder for a report. Parts may be missing: a report can be made at any time."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from toolorchestra.evaluation.archive import (
    NOT_TRAINING,
    check_run,
    evaluation_traces,
    expert_pools,
    lost_attempts,
    training_spec,
)
from toolorchestra.ledger.history import Account, account, read_history
from toolorchestra.ledger.journal import Frame, Kind, read_frame, read_frames
from toolorchestra.rewards.registry import RewardConfig, reward_config
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.rollout.trace import Trace
from toolorchestra.runs.run_dir import RunDir, read_jsonl
from toolorchestra.runs.step_row import sound_rows

TRACE_SAMPLE = 800
"""A report decodes from this many to twice as many accepted traces, spread evenly over the run."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunData:
    """The data of a run. `metrics`: one row per surviving step; `sample`: an even sample of accepted traces."""

    run: RunDir
    manifest: dict[str, Any]
    status: dict[str, Any]
    spec: dict[str, Any]
    config: RewardConfig
    metrics: Sequence[Row]
    events: Sequence[Row]
    account: Account | None
    incarnations: int
    unscored: int
    late: int
    training_usd: float
    sample: Sequence[Trace]
    evaluations: Mapping[str, Mapping[str, Sequence[Trace]]]
    lost: Mapping[str, Mapping[str, int]]
    """Suite → system → number of tasks that ended without a trace."""
    during: Mapping[str, Mapping[int, Sequence[Trace]]]
    """The policy's evaluations during training: suite → step → traces."""

    @property
    def seed(self) -> int:
        """The run's seed; 0 where the manifest has none."""
        return int((self.spec.get("algorithm") or {}).get("seed", self.manifest.get("seed", 0)) or 0)

    @property
    def simulated_pools(self) -> list[str]:
        """Simulated experts, according to the manifest or to their own answers."""
        named = {name for name, spec in expert_pools(self.manifest).items() if spec.get("simulated")}
        named |= set(self.manifest.get("simulated_pools", []))
        traces = [
            *self.sample,
            *(t for systems in self.evaluations.values() for ts in systems.values() for t in ts[:50]),
        ]
        return sorted(named | {c.name for t in traces for turn in t.turns for c in turn.calls if c.meter.simulated})

    @property
    def versions(self) -> list[str]:
        """Policy versions that sampled the training's tokens, in order of appearance in the sample of traces."""
        seen: dict[str, None] = {}
        for trace in self.sample:
            for segment in (s for sample in trace.samples for s in sample.segments):
                if segment.version is not None:
                    seen.setdefault(segment.version)
        return list(seen)

    def total(self, key: str) -> Counter[str]:
        """Return the sum over steps of a metric that is a mapping of numbers."""
        sums: Counter[str] = Counter()
        for row in self.metrics:
            for name, value in (row.get(key) or {}).items():
                sums[name] += value
        return sums


def read_run(root: Path) -> RunData:
    """Read a run's folder; NotARun where it is not a run's, JournalError where its journal is damaged."""
    check_run(root)
    run = RunDir(root)
    manifest = run.read_manifest()
    spec = training_spec(manifest)
    accepted, bills = array("Q"), Counter[str]()

    def seen() -> Iterator[Frame]:
        """Read the journal once, without its bodies: those of a long run do not fit into memory."""
        for frame in read_frames(run.journal, bodies=False):
            if frame.kind not in NOT_TRAINING:
                bills[frame.head["usd"]] += 1
            if frame.kind is Kind.ACCEPTED:
                accepted.append(frame.start)
            yield frame

    history = read_history(seen())
    stride = max(1, len(accepted) // TRACE_SAMPLE)
    return RunData(
        run=run,
        manifest=manifest,
        status=run.read_status(),
        spec=spec,
        config=reward_config(spec),
        metrics=surviving(list(read_jsonl(run.metrics))),
        events=list(read_jsonl(run.events)),
        account=account(history) if run.journal.exists() else None,
        incarnations=len(history.incarnations),
        unscored=history.unscored,
        late=history.late,
        training_usd=float(sum(n * Decimal(usd) for usd, n in bills.items())),
        sample=[decode_trace(body) for at in accepted[::stride] if (body := read_frame(run.journal, at).body)],
        evaluations=evaluation_traces(run.evaluations),
        lost=lost_attempts(run.evaluations),
        during={
            suite: {int(name.rpartition("-")[2]): traces for name, traces in systems.items()}
            for suite, systems in evaluation_traces(run.evaluations_during).items()
        },
    )


def surviving(rows: Sequence[Row]) -> list[Row]:
    """Return one sound row per step, in order: a resumed run repeats steps, and then the later row counts."""
    return [row for _, row in sorted({row["step"]: row for row in sound_rows(rows)}.items())]
