"""Runs checks one after the other, each in its own process with a time limit, and writes what they find at once.

Invariants: whatever a check does, hanging and dying of a CUDA error included, ends that check alone, with its
processes; the results file is whole at any time and says of every check that was begun what it found so far.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from gpu.finding import Figure, Note, Skip, decode
from gpu.identity import ROOT, Identity
from gpu.place import Place
from gpu.result import Result, ResultsFile
from toolorchestra.process import die_with_parent

POLL_SECONDS = 0.25
LOG_BYTES = 12_000
"""Kept of the end of each log of a check that did not end well."""
LOGS = 16
"""Kept at most, the last written first: results travel."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: a module with a function `check(place)` that yields findings."""

    name: str
    module: str
    what: str
    """For people, in a few words."""
    part: int = 1
    subject: str = ""
    seconds: float
    """What it takes on an H100, about: it is not begun where the budget has less left."""
    limit: float
    """Seconds after which it is killed."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The options that change what it does: a result with others is no result of this one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a series of checks is run."""

    place: Place
    """Of all checks: each gets a folder of its own in `folder` and in `scratch`."""
    of: Identity
    results: ResultsFile
    again: bool = False
    budget: float | None = None
    """Seconds for all of them."""
    patience: float = 1.0
    """Factor on all time limits: a CPU is slower."""
    say: Callable[[str], None] = print


def run_all(checks: Sequence[Check], run: Run) -> list[Result]:
    """Their results, in order; a check that has passed already keeps that result, one that is not begun has none."""
    began = time.monotonic()
    run.results.broken_off()
    known = run.results.read()
    made: list[Result] = []
    for check in checks:
        before = known.get(check.name)
        if not run.again and before is not None and before.passed_as(run.of, settings_of(check, run)):
            run.say(f"{'known':<8} {check.name:<22} passed already on {before.of.card}, {before.began}")
            made.append(before)
            continue
        left = None if run.budget is None else run.budget - (time.monotonic() - began)
        if left is not None and left < check.seconds:
            run.say(
                f"{'left out':<8} {check.name:<22} takes about {check.seconds:.0f} s, {max(0, left):.0f} s are left"
            )
            continue
        limit = check.limit * run.patience
        made.append(run_one(check, run, limit=limit if left is None else min(limit, left)))
        run.say(made[-1].line())
    return made


def settings_of(check: Check, run: Run) -> dict[str, Any]:
    """What a result of this check in this run is a result with."""
    return {"device": run.place.device, "tiny": run.place.tiny} | dict(check.settings)


def run_one(check: Check, run: Run, *, limit: float) -> Result:
    """Run it to its end, or to its time limit; every finding is in the file within POLL_SECONDS."""
    place = replace(
        run.place, folder=run.place.folder / check.name, scratch=run.place.scratch / check.name, subject=check.subject
    )
    shutil.rmtree(place.folder, ignore_errors=True)
    for folder in (place.folder, place.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    result = Result(check=check.name, status="running", of=run.of, settings=settings_of(check, run), began=now)
    run.results.put(result)
    began = time.monotonic()
    told: list[dict[str, Any]] = []

    def look() -> None:
        """Write down what it has told since the last look."""
        nonlocal told, result
        if len(found := _told(place)) > len(told):
            told, result = found, _with(result, found)
            run.results.put(replace(result, seconds=_since(began)))

    try:
        with _process(check, place, limit=limit) as process:
            while process.poll() is None and time.monotonic() - began < limit:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                look()
            code = process.poll()
        look()
        result = _ended(result, code, limit)
    except BaseException as end:
        result = replace(result, status="failed", reason=f"the run was ended: {type(end).__name__}")
        raise
    finally:
        logs = tails(place.folder) if result.status in ("failed", "late") else None
        result = replace(result, logs=logs, seconds=_since(began))
        run.results.put(result)
        shutil.rmtree(place.scratch, ignore_errors=True)
    return result


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _told(place: Place) -> list[dict[str, Any]]:
    """The findings so far. A line that is still being written is left for the next look."""
    path = place.folder / "findings.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _with(result: Result, told: Sequence[Mapping[str, Any]]) -> Result:
    """With what it has told: of findings of one name the last counts, at the place of the first."""
    found = [decode(row) for row in told]
    skips = [f.reason for f in found if isinstance(f, Skip)]
    last = {f.name: f for f in found if isinstance(f, (Figure, Note))}
    return replace(result, findings=tuple(last.values()), reason="; ".join(skips))


def _ended(result: Result, code: int | None, limit: float) -> Result:
    """The result with the status that the end of the process and the figures give it. `code` None: it was killed."""
    if code is None:
        return replace(result, status="late", reason=f"killed after {limit:.0f} s")
    if code:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        return replace(result, status="failed", reason=f"ended with {how}")
    if any(figure.met is False for figure in result.figures):
        return replace(result, status="missed")
    return replace(result, status="skipped" if result.reason and not result.figures else "ok")


@contextmanager
def _process(check: Check, place: Place, *, limit: float) -> Iterator[subprocess.Popen[bytes]]:
    """The check's process; at the end, whatever it is, nothing of its family is left."""
    command = [sys.executable, "-m", "gpu.child", check.module, place.write()]
    with (place.folder / "check.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, str(place.folder / "findings.jsonl"), str(limit)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process, its group, and its descendants in groups of their own (engines, Ray)."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait()


def tails(folder: Path) -> dict[str, str]:
    """The ends of a check's logs, by their path in its folder."""
    files = [path for pattern in ("*.log", "events.jsonl", "status.json") for path in folder.rglob(pattern)]
    files = sorted((f for f in files if f.is_file()), key=lambda f: f.stat().st_mtime, reverse=True)[:LOGS]
    return {str(file.relative_to(folder)): _tail(file) for file in files}


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read().decode(errors="replace")
