"""`make demo-figures`: every figure that the docs give of the demo, made anew; about two hours on two cores.

Each *cell* is one whole run of the demo, with one thing changed or none. Its figures go into `docs/demo-figures.json`
as soon as it ends, so that an interrupted command goes on where it was (`--again` starts over); the tables of
`docs/demo.md` between the two marks are written from that file, and a test holds them against it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.seeds import recipe, rows, train

PAGE = Path("docs/demo.md")
RAW = Path("docs/demo-figures.json")
BEGIN, END = "<!-- figures: make demo-figures -->", "<!-- end of figures -->"
SUITES = ("held-out", "unseen-aliases", "unseen-prices")

Row = Mapping[str, Any]
Cells = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One run: `name` is its key in the JSON."""

    name: str
    seed: int
    change: str | None = None
    """A field of spec and its value, `algorithm.maxStaleness=0`."""


SEEDS = tuple(Cell(f"seed-{seed}", seed) for seed in (0, 1, 2))
CHANGES = (
    Cell("staleness-0", 0, "algorithm.maxStaleness=0"),
    Cell("min-max-dot", 0, "reward.combiner=MinMaxDot"),
    Cell("weighted-sum", 0, "reward.combiner=WeightedSum"),
)
AGAIN = tuple(Cell(f"seed-0-again-{n}", 0) for n in (2, 3, 4, 5))
"""Runs of one seed differ: results arrive in another order, so other groups meet in a step."""


def play(cell: Cell, *, runs: Path) -> dict[str, Any]:
    """Run it; its figures, suite by suite, with how long it took and the code that made it."""
    training = recipe([cell.change] if cell.change else [], into=runs / f"figures-{cell.name}.yaml")
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True)
    began = time.monotonic()
    run = train(cell.seed, runs, training)
    minutes = (time.monotonic() - began) / 60
    report = json.loads((run / "report.json").read_text())
    return {"code": commit.stdout.strip(), "minutes": round(minutes, 1), "suites": figures(report, seed=cell.seed)}


def figures(report: Row, *, seed: int) -> dict[str, Any]:
    """By suite: each system beside the best expert on the tasks that both were scored on, the bars missed, the interval
    of what was learned."""
    found = {}
    for row in rows(dict(report), seed):
        suite = row.pop("suite")
        beside = {d["system"]: d["besideBest"] for d in report["evaluationDetails"] if d["suite"] == suite}
        learned = [
            c["interval"]
            for c in report.get("comparisons", [])
            if (c["suite"], c["against"], c["measure"]) == (suite, "initialPolicy", "reward")
        ]
        systems = {name: beside[name] for name in ("policy", "initialPolicy", "oracle", "cascade") if name in beside}
        found[suite] = {"missed": row["missed"], **systems, "learned": learned[0] if learned else None}
    return found


def pair(row: Row, system: str) -> str:
    """`0.964, 10.8 %`: accuracy, and nominal dollars as a share of the best expert's."""
    figure = row[system]
    share = figure["nominalUSDPerTask"] / figure["bestNominalUSDPerTask"]
    return f"{figure['accuracy']:.3f}, {share:.1%}".replace("%", " %")


def tables(cells: Cells) -> str:
    """The part of docs/demo.md that consists of figures; a pure function of the JSON."""
    missed = sum(len(suite["missed"]) for cell in cells.values() for suite in cell["suites"].values())
    first = cells.get("seed-0", next(iter(cells.values())))["suites"]["held-out"]
    policy = first["policy"]
    took = f" Seed 0 took {cells['seed-0']['minutes']:.0f} minutes on two cores." if "seed-0" in cells else ""
    lines = [
        f"{len(cells)} runs; bars missed: {missed}. The best single expert is right in {policy['bestAccuracy']:.3f}"
        f" of the held-out tasks for ${policy['bestNominalUSDPerTask']:.4f} a task.{took}",
        "",
        *_seeds(cells),
        *_again(cells),
        *_changes(cells),
    ]
    if "oracle" in first and "cascade" in first:
        lines += [
            f"On held-out tasks an oracle that knows who will be right reaches {pair(first, 'oracle')}; a cascade from"
            f" cheap to dear {pair(first, 'cascade')}.",
            "",
        ]
    return "\n".join(lines)


def _seeds(cells: Cells) -> list[str]:
    lines = ["| seed | suite | initial policy: accuracy, share of that cost | policy: accuracy, share |"]
    lines.append("| --- | --- | --- | --- |")
    for cell in SEEDS:
        for suite in SUITES if cell.name in cells else ():
            row = cells[cell.name]["suites"][suite]
            lines.append(f"| {cell.seed} | {suite} | {pair(row, 'initialPolicy')} | {pair(row, 'policy')} |")
    return [*lines, ""]


def _again(cells: Cells) -> list[str]:
    same = [cells[name]["suites"]["held-out"] for name in ("seed-0", *(c.name for c in AGAIN)) if name in cells]
    if len(same) < 2:
        return []
    accuracy = [row["policy"]["accuracy"] for row in same]
    listed = "; ".join(pair(row, "policy") for row in same)
    return [
        f"Runs of one seed differ, because results arrive in another order. Seed 0, held-out, {len(same)} times:"
        f" {listed} (accuracy {statistics.mean(accuracy):.3f} ± {statistics.stdev(accuracy):.3f}).",
        "",
    ]


def _changes(cells: Cells) -> list[str]:
    shown = [SEEDS[0], *CHANGES]
    if not any(cell.name in cells for cell in CHANGES):
        return []
    lines = ["Seed 0 with one thing changed:", "", f"| changed | {' | '.join(SUITES)} |", "| --- | --- | --- | --- |"]
    for cell in shown:
        if cell.name in cells:
            suites = cells[cell.name]["suites"]
            what = f"`{cell.change}`" if cell.change else "nothing: `GDPO`, `maxStaleness: 4`"
            lines.append(f"| {what} | {' | '.join(pair(suites[suite], 'policy') for suite in SUITES)} |")
    return [*lines, ""]


def with_tables(page: str, cells: Cells) -> str:
    """The page with its figures replaced; ValueError where a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for figures: put {BEGIN} and {END} into it")
    return f"{before}{BEGIN}\n\n{tables(cells)}\n{END}{after}"


def chosen(names: Sequence[str]) -> list[Cell]:
    """The cells of these names, all where none is given; SystemExit for a name that is none."""
    cells = {cell.name: cell for cell in (*SEEDS, *CHANGES, *AGAIN)}
    if unknown := [name for name in names if name not in cells]:
        raise SystemExit(f"no such cell: {', '.join(unknown)}; there are {', '.join(cells)}")
    return [cells[name] for name in names] or list(cells.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="CELL")
    parser.add_argument("--again", action="store_true", help="run also what the JSON has")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    cells: dict[str, Any] = json.loads(RAW.read_text()) if RAW.exists() else {}
    todo = [cell for cell in chosen(args.only) if args.again or cell.name not in cells]
    for n, cell in enumerate(todo, start=1):
        print(f"demo-figures: {n} of {len(todo)}: {cell.name}", flush=True)
        cells[cell.name] = play(cell, runs=args.runs)
        RAW.write_text(json.dumps(cells, indent=1, sort_keys=True) + "\n")
        PAGE.write_text(with_tables(PAGE.read_text(), cells))


if __name__ == "__main__":
    main()
