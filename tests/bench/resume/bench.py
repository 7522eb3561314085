"""The resume of a long run: CPU seconds and memory from its folder's journal to open ledger.

Writes a journal as a controller does (groups of 8 scored siblings, 16 groups to a step, a checkpoint every 10 steps,
bodies of the size of short traces), killed some steps after a checkpoint. Then opens its ledger in fresh processes:
once with what the checkpoint kept, which the bars are for, once without it (a damaged one, or a run of before).
Prints a table and writes results.json; ends with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from toolorchestra.ledger.history import History
from toolorchestra.ledger.journal import Journal
from toolorchestra.ledger.journalled import JournalledLedger, Result
from toolorchestra.ledger.ledger import LedgerConfig, StepPlan
from toolorchestra.ledger.resume import KEY, load_history
from toolorchestra.policy.version import PolicyVersion

ROOT = Path(__file__).resolve().parents[3]
GROUPS, SIZE, EVERY, LOST = 16, 8, 10, 7
BODY = 1500
"""Bytes of a trace; what matters is that nobody reads them."""
BARS = {"cpu_seconds": 20.0, "more_memory_mb": 300.0}
CONFIG = LedgerConfig(GROUPS, SIZE)
ALLOWANCE, CAP = Decimal("0.10"), Decimal("1e9")


def write_run(folder: Path, *, episodes: int) -> int:
    """A journal of so many episodes and the last checkpoint's part of a manifest; returns the checkpoint's step."""
    journal, body = Journal(folder / "journal.bin"), os.urandom(BODY)
    steps = episodes // (GROUPS * SIZE)
    last = (steps - LOST) // EVERY * EVERY
    journalled, _ = JournalledLedger.open(
        config=CONFIG, uid="run", journal=journal, history=History(), step=0, cap=CAP, allowance=ALLOWANCE
    )
    for step in range(1, steps + 1):
        version = PolicyVersion(0, step - 1)
        for dispatch in journalled.admit(now=0.0):
            entry = journalled.enter(
                Result(dispatch, True, "answered", Decimal("0.012345"), (version, version)), body, now=0.0
            )
            for number in entry.effects.finished:
                journalled.ledger.keep(number)
        plan = journalled.next_step()
        assert isinstance(plan, StepPlan)
        journalled.begin(plan)
        journalled.publish(step)
        if step % EVERY == 0:
            journalled.flush()
            if step == last:
                job = {"journal_offset": journal.synced, KEY: journalled.index.at(step)}
                (folder / "job.json").write_text(json.dumps(job))
            journal.note("checkpoint", step=step, folder=f"step-{step:08d}")
    journal.close()
    return last


def used() -> tuple[float, float]:
    """CPU seconds and the most memory in MB of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    high_water = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return usage.ru_utime + usage.ru_stime, int(high_water.split()[1]) / 1024


def resume(folder: Path, *, step: int, kept: bool) -> dict[str, float]:
    """Open the ledger as a controller's start does; what it cost this process."""
    cpu, memory = used()
    began = time.monotonic()
    job = json.loads((folder / "job.json").read_text())
    if not kept:
        del job[KEY]
    history = load_history(folder / "journal.bin", step=step, job=job)
    journal = Journal(folder / "journal.bin", end=history.end)
    end = journal.synced
    journalled, recovery = JournalledLedger.open(
        config=CONFIG, uid="run", journal=journal, history=history, step=step, cap=CAP, allowance=ALLOWANCE
    )
    seconds = time.monotonic() - began
    now_cpu, now_memory = used()
    assert recovery.step == journalled.ledger.step == step
    os.truncate(folder / "journal.bin", end)  # the next resume finds what this one found
    (folder / "journal.synced").unlink()
    return {
        "cpu_seconds": now_cpu - cpu,
        "more_memory_mb": now_memory - memory,
        "seconds": seconds,
        "recorded": len(history.recorded),
        "under_way": len(history.accepted),
    }


def in_a_fresh_process(folder: Path, *, step: int, kept: bool) -> dict[str, Any]:
    argv = [sys.executable, __file__, "--resume", str(folder), "--step", str(step), *(["--kept"] if kept else [])]
    return dict(json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=ROOT / ".bench" / "resume")
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.resume:
        print(json.dumps(resume(args.resume, step=args.step, kept=args.kept)))
        return
    folder = args.out / "run"
    folder.mkdir(parents=True, exist_ok=True)
    for each in folder.iterdir():
        each.unlink()
    began = time.monotonic()
    step = write_run(folder, episodes=args.episodes)
    size = (folder / "journal.bin").stat().st_size
    print(f"journal: {args.episodes:,} episodes, {size / 1e9:.2f} GB, written in {time.monotonic() - began:.0f} s")
    print(f"kept by the checkpoint: {(folder / 'job.json').stat().st_size:,} bytes")
    found = {name: in_a_fresh_process(folder, step=step, kept=name == "kept") for name in ("kept", "whole journal")}
    for name, row in found.items():
        print(
            f"{name:<14} {row['cpu_seconds']:8.2f} CPU s  {row['more_memory_mb']:8.1f} MB more  {row['seconds']:.2f} s"
        )
    missed = [
        f"{bar} {found['kept'][bar]:.2f}, the most is {most}" for bar, most in BARS.items() if found["kept"][bar] > most
    ]
    results = {"episodes": args.episodes, "journal_bytes": size, "bars": BARS, "missed": missed, **found}
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "journal.bin").unlink()
    print("\n".join(missed) if missed else f"within the bars: {BARS}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
