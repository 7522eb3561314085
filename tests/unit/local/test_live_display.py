"""The live display reads the run's folder and nothing else."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

from rich.console import Console

from support.run_rig import make_run
from toolorchestra.local.live import Display, Follower, step_line

ROW: dict[str, Any] = {
    "step": 7,
    "episodes": 16,
    "reward_mean": 0.25,
    "accuracy": 0.5,
    "nominal_usd_per_task": 0.000123,
    "loss": 0.1,
    "entropy": 1.5,
    "tokens_per_second": 12_345.6,
    "valid_fraction": 1.0,
    "trainer_idle_fraction": 0.4,
    "staleness_mean": 1.25,
    "calls": {"oak": 3, "ash": 1},
    "seconds": {"total": 3.21},
}


def test_a_step_is_one_line() -> None:
    line = step_line(ROW, 80)
    assert line == (
        "step    7/80  reward 0.250  accuracy 0.500  $0.000123/task  entropy 1.500  12,346 tok/s  idle 40%"
        "  stale 1.2  3.2 s"
    )


def test_a_step_without_a_gradient_has_a_line_too() -> None:
    row = {"step": 8, "episodes": 0, "seconds": {"total": 2.0}}
    assert step_line(row, 80) == "step    8/80  no group taught anything: weights unchanged  2.0 s"


def test_only_whole_new_lines_are_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.metric({"step": 1})
    follow = Follower(run)
    assert list(follow.metrics()) == [], "what a run left before it was resumed is not new"
    run.metric({"step": 2})
    with run.metrics.open("a") as file:
        file.write('{"step":')
    assert list(follow.metrics()) == [{"step": 2}]
    with run.metrics.open("a") as file:
        file.write(" 3}\n")
    assert list(follow.metrics()) == [{"step": 3}]
    assert list(follow.events()) == []


async def test_a_message_of_the_life_before_is_not_news(tmp_path: Path) -> None:
    run, out = make_run(tmp_path, message="Ray did not come up"), io.StringIO()
    display = Display(run, steps=3, console=Console(file=out))
    display.finish()
    assert out.getvalue() == ""
    run.set_status({"message": "evaluating"})
    display.finish()
    assert out.getvalue() == "· evaluating\n"


async def test_piped_output_has_a_line_per_step_and_event(tmp_path: Path) -> None:
    run, out = make_run(tmp_path), io.StringIO()
    display = Display(run, steps=80, console=Console(file=out, width=40))
    showing = asyncio.create_task(display.show())
    await asyncio.sleep(0)
    run.event("restart", "worker-0 ended with status -9; starting it again")
    run.metric(ROW)
    run.metric({"warm_step": 1, "loss": 2.0})
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    display.finish()
    said = out.getvalue().splitlines()
    assert said == ["· worker-0 ended with status -9; starting it again", step_line(ROW, 80)]


def test_a_terminals_panel_shows_the_last_step(tmp_path: Path) -> None:
    engines = {"engine-0": {"state": "ready", "version": "0-7"}}
    run, out = make_run(tmp_path, state="Running", step=7, steps=80, engines=engines, spentUSD="0.5"), io.StringIO()
    display = Display(run, steps=80, console=Console(file=out, width=200, force_terminal=True))
    run.metric(ROW)
    display._look()
    display._console.print(display._panel())
    text = out.getvalue()
    for part in ("step 7/80", "50.0%", "oak 75%, ash 25%", "engine-0: ready 0-7", "$0.5000", "about 3 min 54 s left"):
        assert part in text


def test_a_step_whose_episodes_were_all_left_out_says_so(tmp_path: Path) -> None:
    row = ROW | {"valid_fraction": 0.0, "endings": {"unparseable": 8}}
    del row["loss"], row["entropy"]
    line = step_line(row, 80)
    assert line == "step    7/80  nothing to train on: weights unchanged  valid outputs 0%  (unparseable 8)  3.2 s"
    run, out = make_run(tmp_path, state="Running", step=7, steps=80), io.StringIO()
    display = Display(run, steps=80, console=Console(file=out, width=200, force_terminal=True))
    run.metric(row)
    display._look()
    display._console.print(display._panel())
    assert "nothing: weights unchanged" in out.getvalue()
