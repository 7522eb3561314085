"""`make faults`: whole runs under faults, on both buses, held against oracles. Ends with 1 where one differs."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from faults.campaign import AT_A_TIME, run_all
from faults.plan import KINDS, Plan, combinations
from faults.play import Outcome
from faults.table import problems, row_of, table, write

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".bench/faults"


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--episodes", type=int, default=10_000, help="to train on, with scripted engines (10000)")
    parser.add_argument("--real", type=int, default=500, help="the same with real vLLM; 0: leave it out (500)")
    parser.add_argument("--seed", type=int, default=0, help="what everything random is drawn from (0)")
    parser.add_argument("--only", default="", help="combinations whose name holds one of these, such as nats-s4,memory")
    parser.add_argument("--without", default="", help=f"faults to leave out, with commas: {', '.join(KINDS)}")
    parser.add_argument("--jobs", type=int, default=AT_A_TIME, help=f"combinations at a time ({AT_A_TIME})")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for runs, logs and results.json")
    return parser.parse_args(arguments)


def plans_of(chosen: argparse.Namespace) -> list[Plan]:
    without = frozenset(filter(None, chosen.without.split(",")))
    if unknown := without - set(KINDS):
        raise SystemExit(f"--without: no fault {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    wanted = [(each, chosen.episodes) for each in combinations()]
    wanted += [(each, chosen.real) for each in combinations(engines="vllm") if chosen.real]
    return [
        Plan(each, number, chosen.seed, without)
        for each, number in wanted
        if any(part in each.name for part in chosen.only.split(","))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything is exact; 1: something differs; 2: nothing was chosen; 130: interrupted."""
    chosen = options(arguments)
    plans = plans_of(chosen)
    if not plans:
        print(f"faults: no combination is called {chosen.only!r}", file=sys.stderr)
        return 2
    began = time.monotonic()
    done: list[Outcome] = []

    def ended(outcome: Outcome) -> None:
        done.append(outcome)
        write(done, chosen.folder / "results.json")
        cells = "  ".join(f"{key} {value}".strip() for key, value in row_of(outcome).items() if value != "")
        print(f"\r\033[K{cells}" if sys.stderr.isatty() else cells, flush=True)

    try:
        asyncio.run(run_all(plans, chosen.folder, at_a_time=chosen.jobs, on_end=ended))
    except KeyboardInterrupt:
        print("\nfaults: interrupted; what ended is in", chosen.folder / "results.json", file=sys.stderr)
        return 130
    print(f"\n{table(done)}\n")
    if wrong := problems(done):
        print(wrong)
    print(f"faults: {sum(o.good for o in done)} of {len(done)} combinations exact, {time.monotonic() - began:.0f} s")
    return 0 if all(outcome.good for outcome in done) else 1


if __name__ == "__main__":
    sys.exit(main())
