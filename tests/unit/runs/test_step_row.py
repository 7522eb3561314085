"""No line of metrics.jsonl breaks a reader: the live display, the report, the list of runs, the status."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from support.run_rig import make_run
from support.synthetic_run import metric_row, write_run
from toolorchestra.cli.runs import _list_row, _table, overview
from toolorchestra.cli.status import lines, state_row
from toolorchestra.controller.incarnation.training import REPORTED
from toolorchestra.evaluation import plots
from toolorchestra.evaluation.report import write_report
from toolorchestra.evaluation.run_data import surviving
from toolorchestra.local.live import Display, step_line
from toolorchestra.runs.run_dir import read_jsonl
from toolorchestra.runs.status import StatusWriter
from toolorchestra.runs.step_row import MAPPINGS, SHARES, sound

WHOLE = metric_row(3, steps=8, rng=random.Random(0))
FIGURES = st.one_of(
    st.none(), st.booleans(), st.text(max_size=4), st.integers(), st.just(10**400), st.floats(), st.just(-1e308)
)
VALUES = st.one_of(FIGURES, st.lists(FIGURES, max_size=2), st.dictionaries(st.text(max_size=4), FIGURES, max_size=3))
KEYS = st.sampled_from([*WHOLE, *REPORTED, "seconds", "trainer_seconds", "unscored", "warm_step", "kl"])
ROWS = st.one_of(
    VALUES,
    st.builds(lambda whole, odd: whole | odd, st.just(WHOLE), st.dictionaries(KEYS, VALUES, max_size=6)),
    st.dictionaries(KEYS, VALUES, max_size=6),
    st.builds(lambda gone: {k: v for k, v in WHOLE.items() if k not in gone}, st.sets(KEYS, max_size=8)),
)


@given(ROWS)
def test_a_sound_row_is_what_it_promises(row: Any) -> None:
    found = sound(row)
    if found is None:
        return
    assert sound(found) == found
    assert isinstance(found["step"], int)
    for key, value in found.items():
        if key in MAPPINGS:
            assert all(math.isfinite(n) for n in value.values())
        elif key != "version":
            assert math.isfinite(value)
            assert key not in SHARES or 0 <= value <= 1
    assert all(key in found for key in MAPPINGS)


def test_a_row_as_a_run_writes_it_stays_whole() -> None:
    assert sound(WHOLE) == WHOLE | {"unscored": {}, "trainer_seconds": {}}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, max_size=6))
def test_no_row_breaks_a_reader(tmp_path_factory: Any, rows: list[Any]) -> None:
    run, out = make_run(tmp_path_factory.mktemp("run"), state="Running", step=1, steps=9), io.StringIO()
    display = Display(run, steps=9, console=Console(file=out, width=160, force_terminal=True))
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in display._look():
        assert step_line(row, 9)
    display._console.print(display._panel())
    for line in _table([_list_row(overview(run))]):
        assert line
    for row in rows:
        status = StatusWriter(run, steps=9)
        found = sound(row) or {}
        status.set("Running", metrics={key: found[key] for key in REPORTED if key in found})
        assert list(lines(state_row(run)))
    kept = surviving(list(read_jsonl(run.metrics)))
    assert [row["step"] for row in kept] == sorted({row["step"] for row in kept})


@settings(max_examples=8, deadline=None)
@given(st.lists(ROWS, max_size=6))
def test_no_row_breaks_a_plot(rows: list[Any]) -> None:
    kept = surviving(rows)
    curves = (plots.learning_curves, plots.optimiser_curves, plots.calls_over_time, plots.latency_and_staleness)
    for draw in (*curves, plots.utilisation):
        assert draw(kept).startswith("<svg")


def test_no_row_breaks_the_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo-1", steps=4, tasks=8)
    odd = [
        {"step": 2},
        {"step": 3, "seconds": None, "calls": {"oak": None, "elm": float("nan")}, "endings": [], "accuracy": "0.5"},
        {"step": 4, "seconds": {"total": float("inf"), "sync": "long"}, "time": "now", "entropy": 10**400},
        {"step": "5"},
        {"step": None},
        {"step": 6, "calls": "none", "groups_dropped": 3, "trainer_idle_fraction": 2.63},
        ["step", 7],
        None,
    ]
    with run.metrics.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in odd)
    report = write_report(run.root)
    assert report["facts"]["steps"] == 6
    assert report["training"]["trainer_idle_fraction"] == 1.0
