"""A run's folder as a training leaves it, invented: what the report and the commands are tested on."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.synthetic_traces import PRICES, SPECIALIST, evaluation, trace
from toolorchestra.ledger.journal import Journal, Kind
from toolorchestra.rollout.codec import encode_trace
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.trace import Ending, Trace
from toolorchestra.runs.run_dir import RunDir

START = 1_800_000_000.0
GROUP_SIZE = 4
SPEC: dict[str, Any] = {
    "model": {"uri": "file:///models/reader-2m"},
    "reward": {"combiner": "GDPO", "weights": {"outcome": "1", "cost": "0.3", "latency": "0"}},
    "algorithm": {
        "steps": 120, "groupSize": GROUP_SIZE, "groupsPerStep": 2, "seed": 7, "filters": {"informative": True},
    },
}  # fmt: skip


def write_run(root: Path, *, steps: int = 120, tasks: int = 320) -> RunDir:
    """A finished run with journal, metrics, events and evaluations."""
    run = RunDir(root)
    root.mkdir(parents=True)
    run.manifest.write_text(json.dumps(manifest()))
    run.set_status(
        {
            "state": "Complete",
            "message": "all steps are done",
            "steps": steps,
            "step": steps,
            "spentUSD": "0.42",
            "bus": {"kind": "JetStream", "sent": 900, "received": 899},
            "engines": {"engine-0": {"state": "ready", "version": f"0-{steps}", "restarts": 1}},
        }
    )
    rng = random.Random(0)
    for step in range(1, steps + 1):
        run.metric(metric_row(step, steps=steps, rng=rng))
    run.event("incarnation", "incarnation 0 starts from step 0", incarnation=0)
    for step in range(1, steps + 1):
        run.event("sync", f"version 0-{step} is live on 1 engine", step=step)
    write_journal(run, steps=min(steps, 40))
    for system, traces in evaluation(tasks=tasks).items():
        write_traces(run.evaluations / "heldOut" / f"{system}.traces", traces)
    for step in range(10, steps, 10):
        lucky = [trace(task=t, pool=rng.choice(("generalist", SPECIALIST[t % 4]))) for t in range(100)]
        write_traces(root / "evaluations-during" / "heldOut" / f"policy-{step:06d}.traces", lucky)
    return run


def manifest() -> dict[str, Any]:
    pools = [
        {"kind": "ExpertPool", "metadata": {"name": pool}, "spec": {"simulated": True, "type": "Endpoint"}}
        for pool in PRICES
    ]
    return {
        "training": {"kind": "OrchestratorTraining", "metadata": {"name": "demo"}, "spec": SPEC},
        "pools": pools,
        "versions": {"vllm": "0.32.0", "torch": "2.13.0", "ray": "2.60.0", "nats-server": "2.15.1"},
        "created": START,
    }


def metric_row(step: int, *, steps: int, rng: random.Random) -> dict[str, Any]:
    learned = 1 / (1 + math.exp(-8 * (step / steps - 0.35)))
    shares = {"generalist": 90 - 60 * learned, "counter": 60 + 20 * learned, "sorter": 50 + 25 * learned, "speller": 56}
    return {
        "step": step,
        "version": f"0-{step}",
        "time": START + 5 * step,
        "reward_mean": 0.3 + 0.7 * learned + rng.gauss(0, 0.06),
        "reward_std": 0.4,
        "accuracy": min(1, 0.45 + 0.4 * learned + rng.gauss(0, 0.04)),
        "nominal_usd_per_task": 0.0019 - 0.0012 * learned + rng.gauss(0, 0.00005),
        "service_seconds_per_task": 5 - 2.5 * learned + rng.gauss(0, 0.2),
        "entropy": 1.3 - 0.9 * learned + rng.gauss(0, 0.03),
        "loss": rng.gauss(0, 0.02),
        "grad_norm": 0.8 - 0.4 * learned + rng.gauss(0, 0.1),
        "mismatch_k3": 0.0006 + 0.002 * step / steps,
        "mismatch_rms": 0.04,
        "mismatch_tokens": 900 + step,
        "valid_fraction": min(1, 0.6 + 0.5 * learned),
        "staleness_mean": 1.2 + rng.gauss(0, 0.2),
        "staleness_max": rng.choice([2, 3, 4]),
        "episodes": 256,
        "groups_trained": 14,
        "groups_dropped": {"uninformative": 2},
        "endings": {"answered": 240, "turn_limit": 6, "unparseable": 10},
        "calls": {name: max(0, round(n + rng.gauss(0, 4))) for name, n in shares.items()},
        "seconds": {
            "generate_wait": 0.7,
            "pack": 0.1,
            "train": 2.6,
            "sync": 0.3,
            "checkpoint": 0.05,
            "reward": 0.02,
            "total": 3.9,
        },
        "trainer_idle_fraction": max(0, 0.12 - 0.08 * learned + rng.gauss(0, 0.02)),
        "spent_usd": 0.42 * step / steps,
    }


def write_journal(run: RunDir, *, steps: int) -> None:
    """Two groups a step, all trained but one that was dropped and one episode that infrastructure ended."""
    journal = Journal(run.journal)
    journal.note("incarnation", incarnation=0, step=0)
    for step in range(1, steps + 1):
        groups = [2 * step - 2, 2 * step - 1]
        dispatches = [enter(journal, t) for g in groups for t in siblings(g, version=f"0-{step - 1}")]
        journal.note("step", step=step, groups=groups, issues=dispatches)
    dropped = [enter(journal, t) for t in siblings(2 * steps, version=f"0-{steps}")]
    journal.note("dropped", group=2 * steps, reason="uninformative", issues=dropped)
    enter(journal, trace(task=1, pool="sorter", purpose="train", ending=Ending.EXPERT_UNAVAILABLE, group=2 * steps + 1))
    journal.close()


def siblings(group: int, *, version: str) -> list[Trace]:
    """One group: everyone asks another expert, so that outcomes and costs differ."""
    pools = [SPECIALIST[(group + i) % len(SPECIALIST)] for i in range(GROUP_SIZE)]
    return [
        trace(task=group, pool=p, purpose="train", group=group, sample=i, version=version) for i, p in enumerate(pools)
    ]


def enter(journal: Journal, entry: Trace) -> str:
    scored = entry.components.outcome is not None
    head: dict[str, Any] = {"issue": entry.issue, "usd": str(entry.components.actual_usd), "reason": ""}
    if scored:
        version = entry.samples[0].segments[-1].version
        head |= {"oldest": version, "newest": version}
    journal.append(Kind.ACCEPTED if scored else Kind.UNSCORED, head, encode_trace(entry))
    assert str(Dispatch.parse(entry.issue)) == entry.issue
    return entry.issue


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    journal = Journal(path)
    for entry in traces:
        enter_any(journal, entry)
    journal.close()


def enter_any(journal: Journal, entry: Trace) -> None:
    """Evaluation traces: no version in the head, since a baseline has none."""
    kind = Kind.ACCEPTED if entry.components.outcome is not None else Kind.UNSCORED
    head = {"issue": entry.issue, "usd": str(entry.components.actual_usd), "reason": ""}
    journal.append(kind, head, encode_trace(entry))
