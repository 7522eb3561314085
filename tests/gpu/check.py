"""`make gpu-check`: everything that needs a GPU, in parts of at most five minutes each on one GPU of 80 GB.

Each check runs in a process of its own with a time limit; what it finds is in the results file at once, so that a run
that is cut off still tells. A check that has passed already, with the same sources on the same card, is not repeated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from gpu.catalogue import PART_SECONDS, PARTS, catalogue
from gpu.identity import ROOT, identity
from gpu.place import Place
from gpu.result import ResultsFile, report, table
from gpu.runner import Check, Run, run_all

FOLDER = ROOT / ".bench/gpu"
SHARED_MEMORY, SCRATCH = Path("/dev/shm"), "toolorchestra-gpu-check-"
CPU_PATIENCE = 6.0


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parts = "; ".join(f"{number}: {what}" for number, what in PARTS.items())
    parser = argparse.ArgumentParser(prog="gpu.check", description=__doc__)
    parser.add_argument("--part", type=int, choices=sorted(PARTS), help=f"only this part ({parts})")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these checks, in this order")
    parser.add_argument("--list", action="store_true", help="say which checks there are")
    parser.add_argument("--again", action="store_true", help="repeat checks that have passed")
    parser.add_argument(
        "--budget", type=float, help=f"seconds in which to be done ({PART_SECONDS:g} with --part; else none)"
    )
    parser.add_argument("--results", type=Path, default=FOLDER / "gpu-results.json", help="the file of results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU computes in seconds: tries the checks")
    parser.add_argument(
        "--demo-steps",
        type=int,
        default=60,
        metavar="N",
        help="steps of the demo's run (60, which fit into part 1; the whole has 140)",
    )
    parser.add_argument(
        "--smollm", type=Path, metavar="DIR", help="folder of SmolLM2, by examples/real-model/get_model.py"
    )
    return parser.parse_args(arguments)


def chosen_of(known: Sequence[Check], wanted: argparse.Namespace) -> list[Check]:
    """The checks that the options name; SystemExit where one is not known."""
    if wanted.only:
        by_name = {check.name: check for check in known}
        if unknown := [name for name in wanted.only if name not in by_name]:
            raise SystemExit(f"gpu-check: no check {', '.join(unknown)}; there are {', '.join(by_name)}")
        return [by_name[name] for name in wanted.only]
    return [check for check in known if wanted.part in (None, check.part)]


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all bars are met, though what a machine lacks is skipped; 1: a bar is missed, a check failed or was left out;
    2: there is no GPU."""
    wanted = options(arguments)
    smollm = wanted.smollm or ROOT / ".cache/real-model/smollm2-135m-instruct"
    known = catalogue(demo_steps=wanted.demo_steps, smollm=smollm)
    if wanted.list:
        for check in known:
            print(f"{check.part}  {check.name:<22} about {check.seconds:3.0f} s  {check.what}")
        return 0
    checks = chosen_of(known, wanted)
    of = identity(wanted.device)
    if wanted.device == "cuda" and of.card == "unknown GPU":
        print(
            "gpu-check: nvidia-smi names no GPU here; --device cpu --tiny tries the checks without one", file=sys.stderr
        )
        return 2
    ours = [str(ROOT / folder) for folder in ("tests", "workers", "operator")]
    os.environ["PYTHONPATH"] = os.pathsep.join([*ours, *filter(None, [os.environ.get("PYTHONPATH")])])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a time-out's request leaves nothing behind
    results = ResultsFile(wanted.results)
    began = time.monotonic()
    with scratch() as memory:
        place = Place(
            device=wanted.device,
            tiny=wanted.tiny,
            folder=FOLDER / "logs",
            scratch=memory,
            demo_steps=wanted.demo_steps,
            smollm=smollm,
        )
        run = Run(
            place=place,
            of=of,
            results=results,
            again=wanted.again,
            budget=wanted.budget if wanted.budget is not None or wanted.part is None else PART_SECONDS,
            patience=1.0 if wanted.device == "cuda" else CPU_PATIENCE,
            say=lambda line: print(line, flush=True),
        )
        print(f"gpu-check: {of.words()}", flush=True)
        made = run_all(checks, run)
    page = wanted.results.with_suffix(".md")
    page.write_text(report(list(results.read().values())), encoding="utf-8")
    ends = Counter(result.status for result in made)
    words = ", ".join(f"{number} {status}" for status, number in ends.items()) or "none begun"
    print(f"\n{table(made)}\ngpu-check: of {len(checks)} checks {words}; {time.monotonic() - began:.0f} s; {page}")
    return 0 if ends["ok"] + ends["skipped"] == len(checks) else 1


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where the machine has room there; those of runs that were killed are removed."""
    above = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    for left in above.glob(f"{SCRATCH}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(SCRATCH))):
            shutil.rmtree(left, ignore_errors=True)
    folder = above / f"{SCRATCH}{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
