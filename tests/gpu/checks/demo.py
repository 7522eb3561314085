"""`orchestra train` on the demo, from its start to its report, held against the demo's bars and five minutes.

Its folder is under the check's: where it fails, the ends of all its logs are in the results.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from gpu.finding import Figure, Finding, Note
from gpu.identity import ROOT
from gpu.place import Place
from support.real_run import TINY_RUN
from support.tiny_model import tiny_model
from toolorchestra.process import tail
from toolorchestra.runs.run_dir import RunDir, read_jsonl

DEMO = ROOT / "examples/demo"
FULL_STEPS = 140
SECONDS = 300.0
"""Bar of the whole run with FULL_STEPS."""
TINY_STEPS = 3
TELL_SECONDS = 5.0


def check(place: Place) -> Iterator[Finding]:
    steps = TINY_STEPS if place.tiny else place.demo_steps
    yield Figure(name="steps wanted", value=steps)
    yield Figure(name="rollout workers", value=workers(place))
    began = time.time()
    log = place.folder / "orchestra.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "toolorchestra.cli.main", *arguments(place, steps)], cwd=ROOT, stdout=out, stderr=out
        )
    while process.poll() is None:
        try:
            process.wait(TELL_SECONDS)
        except subprocess.TimeoutExpired:
            yield from so_far(place, began)
    seconds = time.time() - began
    yield from so_far(place, began)
    limit = place.bar(SECONDS) if steps >= FULL_STEPS else None
    yield Figure(name="the whole run", value=seconds, unit="s", at_most=limit)
    run = run_of(place)
    yield Note(name="what orchestra said", text=tail(log, lines=60))
    if process.returncode or run is None or not (run.root / "report.json").exists():
        raise SystemExit(f"orchestra train ended with status {process.returncode}:\n{tail(log, lines=40)}")
    yield from of_report(json.loads((run.root / "report.json").read_text()), bars=not place.tiny)


def arguments(place: Place, steps: int) -> list[str]:
    """Of `orchestra`; the training's file is a copy with other steps and workers."""
    source = (TINY_RUN if place.tiny else DEMO) / "training.yaml"
    documents = list(yaml.safe_load_all(source.read_text()))
    documents[0]["spec"]["algorithm"]["steps"] = steps
    documents[0]["spec"]["rollout"]["workers"] = workers(place)
    training = place.folder / "training.yaml"
    training.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    given = ["train", "-f", str(training), "--device", place.device, "--runs", str(place.folder / "runs")]
    if place.tiny:
        tiny_model(place.scratch / "models" / "tiny")
        return [*given, "--simulator", str(TINY_RUN / "skills.yaml"), "--volume", f"models={place.scratch / 'models'}"]
    return [*given, "-f", str(DEMO / "pools.yaml"), "--simulator", str(DEMO / "skills.yaml")]


def workers(place: Place) -> int:
    """One process plays about 200 of the demo's episodes a second, and a GPU's trainer and engine want more: a worker
    for every four cores, four at most. The demo's own file has one, for two cores."""
    return 1 if place.tiny else max(1, min(4, (os.cpu_count() or 1) // 4))


def run_of(place: Place) -> RunDir | None:
    """The run, once its folder is there."""
    found = sorted((place.folder / "runs").glob("*/"))
    return RunDir(found[0]) if found else None


def so_far(place: Place, began: float) -> Iterator[Figure]:
    """When its milestones were reached, and how far it is."""
    run = run_of(place)
    if run is None:
        return
    events = list(read_jsonl(run.events))
    for name, kind, word in MILESTONES:
        if times := [e["time"] for e in events if e["event"] == kind and word in e["message"]]:
            yield Figure(name=name, value=times[0] - began, unit="s after the start")
    rows = [row for row in read_jsonl(run.metrics) if "step" in row]
    yield Figure(name="steps made", value=len(rows))
    yield from of_steps(rows)
    if rows:
        yield Figure(name="first step made", value=rows[0]["time"] - began, unit="s after the start")
        yield Figure(name="last step made", value=rows[-1]["time"] - began, unit="s after the start")


MILESTONES = (
    ("driver started", "incarnation", "starts"),
    ("engine starting", "engine", "is starting"),
    ("engine ready", "engine", "is ready"),
    ("all steps done", "ended", ""),
)
"""Name, and the kind and a word of the event that is it."""


def of_steps(rows: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """Medians over the run's steps: the whole, and its parts."""
    taken = [row for row in rows if "seconds" in row]
    for name in dict.fromkeys(name for row in taken for name in row["seconds"]):
        value = statistics.median(row["seconds"].get(name, 0.0) for row in taken)
        yield Figure(name=f"a step: {name}", value=value, unit="s, median")
    for name in ("tokens_per_second", "mismatch_k3", "mismatch_rms", "kl", "engine_pause_seconds"):
        if values := [row[name] for row in rows if row.get(name) is not None]:
            yield Figure(name=f"a step: {name}", value=statistics.median(values), unit="median")


def of_report(report: Mapping[str, Any], *, bars: bool) -> Iterator[Figure]:
    """The policy beside the best expert, and every bar of the demo."""
    details = [d for d in report.get("evaluationDetails", []) if d["system"] == "policy" and d.get("besideBest")]
    for detail in details:
        beside, suite = detail["besideBest"], detail["suite"]
        yield Figure(name=f"{suite}: accuracy", value=beside["accuracy"])
        yield Figure(name=f"{suite}: best expert's", value=beside["bestAccuracy"])
        if beside["bestNominalUSDPerTask"]:
            share = beside["nominalUSDPerTask"] / beside["bestNominalUSDPerTask"]
            yield Figure(name=f"{suite}: share of its cost", value=share)
    gates = report.get("gates", [])
    missed = [gate["bar"] for gate in gates if not gate["passed"]]
    yield Figure(name="bars of the demo", value=len(gates))
    yield Figure(name="bars missed", value=len(missed), at_most=0 if bars else None)
    if missed:
        yield Figure(name="missed", value="; ".join(missed))
