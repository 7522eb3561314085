"""Writes a run's report: `report.json` for programs, `report.html` for people, from the run's folder alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from toolorchestra.evaluation import plots
from toolorchestra.evaluation.acceptance import acceptance
from toolorchestra.evaluation.attempt import attempts_of
from toolorchestra.evaluation.baselines import BEST_EXPERT, POLICY
from toolorchestra.evaluation.episodes import find_decoder, pick, readable
from toolorchestra.evaluation.evaluate import evaluate_suite
from toolorchestra.evaluation.facts import (
    PUSH_EVENTS,
    dollars_by_use,
    ledger_account,
    mismatch,
    run_facts,
    seconds_by_use,
)
from toolorchestra.evaluation.progress import progress
from toolorchestra.evaluation.reward_scale import DESCRIPTION, RAW_DESCRIPTION
from toolorchestra.evaluation.run_data import RunData, read_run
from toolorchestra.runs.run_dir import write_atomically
from toolorchestra.tasks.file_uri import relative
from toolorchestra.trainer.batch import HEALTHY_K3, MOST_K3

Json = dict[str, Any]
REPORT_SCHEMA = 1


def write_report(root: Path) -> Json:
    """Write report.html and report.json into the run's folder; return the JSON. NotARun: it is not a run's folder."""
    data = read_run(root)
    report = report_json(data)
    write_atomically(data.run.root / "report.json", json.dumps(report, indent=1) + "\n")
    write_atomically(data.run.root / "report.html", report_html(data, report))
    return report


def report_json(data: RunData) -> Json:
    """Return all numbers that the page shows."""
    report: Json = {
        "schemaVersion": REPORT_SCHEMA,
        "run": data.run.name,
        "evaluations": [],
        "evaluationDetails": [],
        "comparisons": [],
        "suites": [],
        "reward": {
            "combiner": data.config.combiner,
            "weights": dict(data.config.weights),
            "inEvaluations": RAW_DESCRIPTION if data.config.combiner == "WeightedSum" else DESCRIPTION,
        },
        "facts": run_facts(data),
        "account": ledger_account(data),
        "endings": dict(data.total("endings").most_common()),
        "groupsDropped": dict(data.total("groups_dropped").most_common()),
        "secondsByUse": seconds_by_use(data),
        "actualUSDByUse": dollars_by_use(data),
        "mismatch": mismatch(data.metrics),
        "training": dict(data.metrics[-1]) if data.metrics else None,
        "progress": progress(data),
    }
    for suite in sorted(data.evaluations.keys() | data.lost.keys()):
        attempts = {system: attempts_of(traces) for system, traces in data.evaluations.get(suite, {}).items()}
        lost = data.lost.get(suite, {})
        result = evaluate_suite(suite, attempts, config=data.config, seed=data.seed, lost=lost)
        report["evaluations"] += result.rows
        report["evaluationDetails"] += result.details
        report["comparisons"] += result.comparisons
        report["suites"].append(result.suite)
    report["gates"] = [asdict(criterion) for criterion in acceptance(report)]
    return report


def report_html(data: RunData, report: Json) -> str:
    """Return the page: self-contained, without scripts or requests, with inline plots."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"dollars": plots.dollars, "percent": _percent, "signed": _signed}
    decode = find_decoder(data.run.root)
    return environment.get_template("report.html.j2").render(
        report=report,
        facts=report["facts"],
        headline=headline(report),
        suites=[_suite(report, suite) for suite in report["suites"]],
        plots=_plots(data, report),
        episodes=[readable(trace, decode=decode) for trace in pick(_showcase(data))],
        duration=_duration(data),
        model=relative((data.spec.get("model") or {}).get("uri", ""), folder=_started_in(data)),
        events=[_event(e) for e in data.events if e.get("event") not in PUSH_EVENTS][-40:],
        healthy_k3=HEALTHY_K3,
        most_k3=MOST_K3,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def headline(report: Mapping[str, Any]) -> str:
    """Return the result in one or two sentences: policy and best expert on the first suite with the policy."""
    rows: Sequence[Json] = report["evaluations"]
    suite = next((r["suite"] for r in rows if r["system"] == POLICY), None)
    systems = {r["system"]: r for r in rows if r["suite"] == suite}
    if POLICY not in systems:
        return "This run has not been evaluated yet."
    policy = systems[POLICY]
    text = (
        f"On {policy['tasks']} tasks of {suite} the policy is right in {_percent(policy['accuracy'])}"
        f" for {plots.dollars(policy['nominalUSDPerTask'])} a task"
    )
    details = (d for d in report["evaluationDetails"] if d["suite"] == suite and d["system"] == POLICY)
    beside = next((d["besideBest"] for d in details), None)
    if beside is None or beside["bestNominalUSDPerTask"] == 0:
        return text + "."
    name = next(s[BEST_EXPERT] for s in report["suites"] if s["suite"] == suite)
    share = beside["nominalUSDPerTask"] / beside["bestNominalUSDPerTask"]
    common = "" if beside["tasks"] == policy["tasks"] else f" on the {beside['tasks']} tasks that both were scored on"
    return (
        f"{text}; the best single expert, {name}, in {_percent(beside['bestAccuracy'])} for"
        f" {plots.dollars(beside['bestNominalUSDPerTask'])}{common}. The policy pays {share:.0%} of that."
    )


def _plots(data: RunData, report: Mapping[str, Any]) -> dict[str, str]:
    rows = data.metrics
    return {
        "learning": plots.learning_curves(rows),
        "progress": plots.held_out_progress(report["progress"], report["evaluations"]) if report["progress"] else "",
        "optimiser": plots.optimiser_curves(rows),
        "mismatch": plots.mismatch_curves(rows),
        "calls": plots.calls_over_time(rows),
        "latency": plots.latency_and_staleness(rows),
        "utilisation": plots.utilisation(rows),
        "seconds": plots.bars(report["secondsByUse"], title="Where the trainer's time went", unit="s", what="times"),
        "usd": plots.bars(report["actualUSDByUse"], title="Where the dollars went (actual)", unit="$", what="spend"),
        "endings": plots.bars(report["endings"], title="How episodes ended", unit="", what="endings"),
        "dropped": plots.bars(report["groupsDropped"], title="Why groups were dropped", unit="", what="dropped groups"),
    }


def _suite(report: Mapping[str, Any], suite: Mapping[str, Any]) -> Json:
    """Return one suite as the template's data."""
    name = suite["suite"]
    details = {d["system"]: d for d in report["evaluationDetails"] if d["suite"] == name}
    comparisons = {(c["against"], c["measure"]): c for c in report["comparisons"] if c["suite"] == name}
    rows = [
        {
            **row,
            "detail": details[row["system"]],
            "rewardDifference": comparisons.get((row["system"], "reward")),
        }
        for row in report["evaluations"]
        if row["suite"] == name
    ]
    tools = sorted({tool for d in details.values() for tool in d["callsPerTask"]})
    return {
        **suite,
        "rows": rows,
        "tools": tools,
        "policyTopics": details[POLICY]["byTopic"] if POLICY in details else {},
        "plot": plots.accuracy_against_cost([r for r in report["evaluations"] if r["suite"] == name], suite=name),
    }


def _showcase(data: RunData) -> Sequence[Any]:
    """Return the traces to choose sample episodes from: the policy's evaluation, else the last of training."""
    for systems in data.evaluations.values():
        if systems.get(POLICY):
            return systems[POLICY]
    return list(data.sample)[-100:]


def _event(event: Mapping[str, Any]) -> Json:
    return {"clock": _clock(event.get("time")), "event": event.get("event", ""), "message": event.get("message", "")}


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _clock(value: Any) -> str:
    return time.strftime("%H:%M:%S", time.localtime(value)) if isinstance(value, int | float) else str(value or "")


def _started_in(data: RunData) -> str:
    return str((data.manifest.get("options") or {}).get("folder") or "")


def _duration(data: RunData) -> str:
    times = [row["time"] for row in (*data.metrics, *data.events) if isinstance(row.get("time"), int | float)]
    return f"{(max(times) - min(times)) / 60:.0f} min" if times else ""
