"""`make demo-seeds`: the demo for three seeds, each judged on every suite (held-out, unseen aliases, unseen prices).

Runs one after the other, each with its report; ends with a table, a JSON of all figures (runs/demo-seeds.json) and the
line that says how many bars were missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from toolorchestra.evaluation.gates import gates

HERE = Path(__file__).resolve().parent
FIGURES = ("accuracy", "nominalUSDPerTask", "reward")


def train(seed: int, runs: Path) -> Path:
    """One run of the demo; its folder."""
    before = set(runs.iterdir()) if runs.exists() else set[Path]()
    command = [sys.executable, "-m", "toolorchestra.cli.main", "train", "--runs", str(runs), "--seed", str(seed)]
    for name in ("training.yaml", "pools.yaml"):
        command += ["-f", str((HERE / name).relative_to(Path.cwd()))]
    subprocess.run([*command, "--simulator", str(HERE / "skills.yaml")], check=True)
    return max(set(runs.iterdir()) - before, key=lambda path: path.stat().st_mtime)


def rows(report: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Policy against the best expert, suite by suite."""
    found = []
    for suite in dict.fromkeys(row["suite"] for row in report["evaluations"]):
        systems = {row["system"]: row for row in report["evaluations"] if row["suite"] == suite}
        judged = gates(report, suite=suite)
        found.append(
            {
                "seed": seed,
                "suite": suite,
                "missed": [gate.bar for gate in judged if not gate.passed],
                "policy": {name: systems["policy"][name] for name in FIGURES},
                "bestExpert": {name: systems["bestExpert"][name] for name in FIGURES},
                "initialPolicy": {name: systems["initialPolicy"][name] for name in FIGURES},
            }
        )
    return found


def table_of(found: list[dict[str, Any]]) -> Table:
    table = Table("suite", "seed", "accuracy", "best expert's", "cost share", "bars missed")
    for row in sorted(found, key=lambda r: (r["suite"], r["seed"])):
        share = row["policy"]["nominalUSDPerTask"] / row["bestExpert"]["nominalUSDPerTask"]
        accuracy, best = row["policy"]["accuracy"], row["bestExpert"]["accuracy"]
        missed = "; ".join(row["missed"]) or "none"
        table.add_row(row["suite"], str(row["seed"]), f"{accuracy:.3f}", f"{best:.3f}", f"{share:.1%}", missed)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    found: list[dict[str, Any]] = []
    for seed in args.seeds:
        run = train(seed, args.runs)
        found += rows(json.loads((run / "report.json").read_text()), seed)
        (args.runs / "demo-seeds.json").write_text(json.dumps(found, indent=1) + "\n")
    console = Console()
    console.print(table_of(found))
    for suite in dict.fromkeys(row["suite"] for row in found):
        values = [row["policy"]["accuracy"] for row in found if row["suite"] == suite]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        console.print(f"{suite}: accuracy {statistics.mean(values):.3f} ± {spread:.3f} over {len(values)} seeds")
    missed = sum(len(row["missed"]) for row in found)
    console.print(f"bars missed: {missed}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
