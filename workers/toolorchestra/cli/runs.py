"""`orchestra runs list|show`: list the runs of a folder, or show one in detail."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from toolorchestra.cli.say import say
from toolorchestra.local.lock import RunLock
from toolorchestra.runs.run_dir import RunDir, Unreadable, read_jsonl
from toolorchestra.runs.step_row import SoundRow, sound_rows

RUNS = Path("runs")
UNDER_WAY = ("Starting", "Running")
"""States in which a process must hold the run's lock; where none does, that process has died."""
Folder = Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

runs = typer.Typer(add_completion=False, no_args_is_help=True, help="List the local runs, or show one.")


def find_run(name: Path, *, folder: Path = RUNS) -> RunDir:
    """Return the run with this path, or with this name under `folder`; end the command where there is none."""
    from toolorchestra.evaluation.archive import NotARun, check_run

    root = name if name.is_dir() or name.is_absolute() or len(name.parts) > 1 else folder / name
    try:
        check_run(root)
    except NotARun as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    return RunDir(root)


@runs.command("list")
def list_runs(folder: Folder = RUNS, as_json: AsJson = False) -> None:
    """List the runs, the newest first."""
    rows = sorted((overview(run) for run in _runs_in(folder)), key=lambda row: str(row["started"]), reverse=True)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo(f"no runs in {folder}/ (start one with: orchestra train -f FILE)")
        return
    for line in _table([_list_row(row) for row in rows]):
        typer.echo(line)


def _list_row(row: dict[str, Any]) -> tuple[str, ...]:
    numbers = (_number(row[key]) for key in ("reward", "accuracy", "usdPerTask", "spentUSD"))
    state = f"{row['status']} (died)" if row["died"] else row["status"]
    return (row["run"], row["started"] or "–", state, f"{row['step']}/{row['steps'] or '?'}", *numbers)


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield a table's lines, in aligned columns that are never truncated, so that tools such as `cut` can read them."""
    table = [("run", "started", "status", "step", "reward", "accuracy", "$/task", "spent $"), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        cells = (c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join(cells).rstrip()


@runs.command("show")
def show_run(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its name under runs/.")],
    folder: Folder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Show one run: its state, its checkpoints, its report and its last events."""
    found = find_run(run, folder=folder)
    row, events = overview(found), list(read_jsonl(found.events))[-8:]
    row |= {
        "folder": str(found.root),
        "checkpoints": sorted(p.name for p in found.checkpoints.glob("step-*")),
        "report": str(found.root / "report.html") if (found.root / "report.html").exists() else None,
        "events": [f"{clock(e.get('time'))}  {e.get('message', e.get('event'))}" for e in events],
    }
    if as_json:
        typer.echo(json.dumps(row, indent=1))
        return
    for key, value in row.items():
        lines = value if isinstance(value, list) else [_number(value) if isinstance(value, float) else value]
        for i, line in enumerate(lines or ["–"]):
            say(f"{key if i == 0 else '':<12} {'–' if line is None else line}")


def _runs_in(folder: Path) -> Iterator[RunDir]:
    for manifest in sorted(folder.glob("*/manifest.json")):
        yield RunDir(manifest.parent)


def overview(run: RunDir) -> dict[str, Any]:
    """Return one run as a row of the list; values that no file has are None."""
    try:
        manifest, status = run.read_manifest(), run.read_status()
    except Unreadable as error:
        return _row(run) | {"status": "Unreadable", "message": str(error)}
    rows = [row for row in sound_rows(read_jsonl(run.metrics)) if "accuracy" in row]
    last = max(rows, key=lambda row: row["step"], default=SoundRow())
    return _row(run) | {
        "started": clock(manifest.get("created")),
        "status": (state := status.get("state", "Starting")),
        "died": state in UNDER_WAY and RunLock(run).holder() is None,
        "message": status.get("message") or None,
        "step": status.get("step", last.get("step", 0)),
        "steps": planned_steps(manifest, status),
        "reward": last.get("reward_mean"),
        "accuracy": last.get("accuracy"),
        "usdPerTask": last.get("nominal_usd_per_task"),
        "spentUSD": _float(status.get("spentUSD", last.get("spent_usd"))),
    }


def _row(run: RunDir) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("started", "status", "died", "message", "step", "steps", "reward", "accuracy", "usdPerTask", "spentUSD")
    )
    return {"run": run.name, **empty}


def planned_steps(manifest: dict[str, Any], status: dict[str, Any]) -> int | None:
    """Return the number of optimizer steps that the training asks for, if it is known."""
    from toolorchestra.evaluation.archive import training_spec

    found = status.get("steps") or (training_spec(manifest).get("algorithm") or {}).get("steps")
    return int(found) if found is not None else None


def clock(value: Any) -> str | None:
    """Format a time for people: Unix seconds as local time; text stays as it is."""
    if isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return None if value is None else str(value)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
