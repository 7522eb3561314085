"""The train_step bar: real tokens per second of our optimizer step against TRL 1.16's GRPO step, on the same file.

Prints `train_step ratio: X (bar 2)` and writes results.json; exits 1 if loss or gradient norm differ, or the bar is
missed. Sides run one after the other, each in its own process with the same threads; of TRL's batch splits the best
counts. Needs .bench/peers (tests/parity/peer_environment.sh).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from world import make

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
BAR = 2.0
TRL_MICRO_BATCHES = (32,)
"""Whole batch at once: as fast as splits of 8 (22.7 against 23.4 CPU seconds a step), and half the run."""
TOKEN_BUDGET = 8192


def run(python: Path | str, script: str, folder: Path, threads: int, size: int) -> dict[str, Any]:
    """One side in its own process; its report is the last line."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), str(HERE / script), str(folder), str(threads), str(size)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    report["median_seconds"] = statistics.median(report["seconds"])
    report["median_cpu_seconds"] = statistics.median(report["cpu_seconds"])
    return report


def equal(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether both sides computed the same thing, to float32 rounding."""
    return all(abs(ours[key] - theirs[key]) <= 1e-5 * max(1.0, abs(theirs[key])) for key in ("loss", "grad_norm"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--json", type=Path, default=ROOT / ".bench/train_step/results.json")
    options.add_argument("--micro-batches", type=int, nargs="+", default=TRL_MICRO_BATCHES)
    arguments = options.parse_args()
    folder = ROOT / ".bench/train_step"
    folder.mkdir(parents=True, exist_ok=True)
    make(folder)
    ours = run(sys.executable, "ours.py", folder, arguments.threads, TOKEN_BUDGET)
    peers = ROOT / ".bench/peers/bin/python"
    trl = [run(peers, "trl_step.py", folder, arguments.threads, size) for size in arguments.micro_batches]
    best = min(trl, key=lambda report: report["median_seconds"])
    results = {
        "ratio": best["median_seconds"] / ours["median_seconds"],
        "cpu_ratio": min(r["median_cpu_seconds"] for r in trl) / ours["median_cpu_seconds"],
        "tokens_per_second": {
            "ours": ours["tokens"] / ours["median_seconds"],
            "trl": ours["tokens"] / best["median_seconds"],
        },
        "threads": arguments.threads,
        "machine": platform.processor() or platform.machine(),
        "ours": ours,
        "trl": trl,
    }
    # Raw numbers, so that a reader can check the medians.
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    for report in trl:
        same = "equal" if equal(ours, report) else "DIFFERENT"
        print(
            f"loss {ours['loss']:.7f} / {report['loss']:.7f}, gradient norm {ours['grad_norm']:.7f} / "
            f"{report['grad_norm']:.7f}: {same}; TRL micro-batch {report['micro_batch']}: "
            f"{report['median_seconds']:.2f} s a step, {report['padding']:.0%} padding"
        )
    speed = results["tokens_per_second"]
    print(f"ours {ours['median_seconds']:.2f} s a step; {speed['ours']:.0f} against {speed['trl']:.0f} real tokens/s")
    print(f"train_step ratio: {results['ratio']:.2f} (bar {BAR:g}); in CPU seconds {results['cpu_ratio']:.2f}")
    if not all(equal(ours, report) for report in trl) or results["ratio"] < BAR:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
