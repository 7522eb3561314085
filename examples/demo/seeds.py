"""`make demo-seeds`: the demo for three seeds, each judged on every suite (held-out, unseen aliases, unseen prices).

Runs one after the other, each with its report; ends with a table, a JSON of all figures (runs/NAME.json) and the line
that says how many bars were missed. `--set algorithm.maxStaleness=0` changes the recipe's spec for all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from toolorchestra.evaluation.acceptance import acceptance

HERE = Path(__file__).resolve().parent
PAIRED = ("accuracy", "bestAccuracy", "nominalUSDPerTask", "bestNominalUSDPerTask", "tasks")
"""Of a system beside the best expert, on the tasks that both were scored on."""


def recipe(changes: list[str], *, into: Path) -> Path:
    """The demo's training, or a copy of it with other values; the file to run."""
    original = (HERE / "training.yaml").relative_to(Path.cwd())
    if not changes:
        return original
    training = yaml.safe_load(original.read_text())
    for change in changes:
        path, _, value = change.partition("=")
        *folders, name = path.split(".")
        place = training["spec"]
        for folder in folders:
            place = place[folder]
        place[name] = yaml.safe_load(value)
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text(yaml.safe_dump(training, sort_keys=False))
    return into


def train(seed: int, runs: Path, training: Path) -> Path:
    """One run of the demo; its folder."""
    before = set(runs.glob("*/")) if runs.exists() else set[Path]()
    command = [sys.executable, "-m", "toolorchestra.cli.main", "train", "--runs", str(runs), "--seed", str(seed)]
    for file in (training, (HERE / "pools.yaml").relative_to(Path.cwd())):
        command += ["-f", str(file)]
    subprocess.run([*command, "--simulator", str(HERE / "skills.yaml")], check=True)
    return max(set(runs.glob("*/")) - before, key=lambda path: path.stat().st_mtime)


def rows(report: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Policies beside the best expert, suite by suite; None where there is no such system, or no best expert."""
    found = []
    for suite in dict.fromkeys(row["suite"] for row in report["evaluations"]):
        beside = {d["system"]: d["besideBest"] for d in report["evaluationDetails"] if d["suite"] == suite}
        judged = acceptance(report, suite=suite)
        found.append(
            {
                "seed": seed,
                "suite": suite,
                "missed": [criterion.bar for criterion in judged if not criterion.passed],
                "policy": _paired(beside.get("policy")),
                "initialPolicy": _paired(beside.get("initialPolicy")),
            }
        )
    return found


def _paired(beside: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if beside is None else {name: beside[name] for name in PAIRED}


def shown(paired: dict[str, Any] | None) -> tuple[str, str, str]:
    """Accuracy, the best expert's, and the share of its cost; `-` for what there is not."""
    if paired is None:
        return "-", "-", "-"
    cost, best = paired["nominalUSDPerTask"], paired["bestNominalUSDPerTask"]
    return f"{paired['accuracy']:.3f}", f"{paired['bestAccuracy']:.3f}", f"{cost / best:.1%}" if best else "-"


def table_of(found: list[dict[str, Any]]) -> Table:
    table = Table("suite", "seed", "accuracy", "best expert's", "cost share", "bars missed")
    for row in sorted(found, key=lambda r: (r["suite"], r["seed"])):
        missed = "; ".join(row["missed"]) or ("none" if row["policy"] else "-")
        table.add_row(row["suite"], str(row["seed"]), *shown(row["policy"]), missed)
    return table


def spreads(found: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and standard deviation over the seeds, a line for each suite."""
    for suite in dict.fromkeys(row["suite"] for row in found):
        values = [row["policy"]["accuracy"] for row in found if row["suite"] == suite and row["policy"] is not None]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        said = f"{statistics.mean(values):.3f} ± {spread:.3f}" if values else "-"
        yield f"{suite}: accuracy {said} over {len(values)} seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a field of spec, in YAML")
    parser.add_argument("--name", default="demo-seeds", help="of the JSON, and of the changed recipe")
    args = parser.parse_args()
    training = recipe(args.set, into=args.runs / f"{args.name}.yaml")
    found: list[dict[str, Any]] = []
    for seed in args.seeds:
        run = train(seed, args.runs, training)
        found += rows(json.loads((run / "report.json").read_text()), seed)
        (args.runs / f"{args.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    console = Console()
    console.print(table_of(found))
    for line in spreads(found):
        console.print(line)
    missed = sum(len(row["missed"]) for row in found)
    console.print(f"bars missed: {missed}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
