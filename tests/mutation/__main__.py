"""`make mutants`: change the code in one place after the other, and see that a test fails.

Ends with 1 where too few do, and where a declared survivor is none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mutation import imported
from mutation.imported import Pending, read_pending, write_pending
from mutation.mutants import Mutant, Source
from mutation.run_tests import AT_IMPORT, KILLED, SURVIVED, TIMEOUT, Fork, Forks, files_under
from mutation.verdicts import Declared, Summary, Verdicts, digest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
CACHE = ROOT / ".cache/mutants"
EXAMPLES = 15
CHOICE = "not real and not controlplane and not chart and not cluster and not long"
PYTEST: tuple[str, ...] = ("-q", "-o", "addopts=", "--import-mode=importlib", "-m", CHOICE)
PYTEST += ("-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none")
HOW = {KILLED: "a test failed", SURVIVED: "all tests passed", TIMEOUT: "it took too long"}


Run = Callable[[], Fork]


def in_turn(runs: Mapping[str, Run], jobs: int, say: Callable[[str], None]) -> Iterator[tuple[str, int]]:
    """Start all, `jobs` at a time; the key and how it ended of each that has."""
    left, running = list(runs), dict[str, Fork]()
    done, began = 0, time.monotonic()
    try:
        while left or running:
            while left and len(running) < jobs:
                running[left[0]] = runs[left[0]]()
                del left[0]
            time.sleep(0.005)
            for key, fork in list(running.items()):
                if (code := fork.ended()) is None:
                    continue
                del running[key]
                yield key, code
                done += 1
                if done % 100 == 0:
                    say(f"  {done} tried in {time.monotonic() - began:.0f} s, {len(left)} left")
    finally:
        for fork in running.values():
            fork.end()


def try_all(forks: Forks, mutants: Sequence[Mutant], verdicts: Verdicts, jobs: int, say: Any) -> list[Pending]:
    """Every mutant without a verdict gets one; those returned are to be imported."""
    left = {mutant.key: mutant for mutant in mutants if verdicts.of(mutant.key) is None}
    tests = {key: forks.tests_of(mutant) for key, mutant in left.items()}
    for key in [key for key in left if not tests[key]]:
        verdicts.add(key, False, "no test comes by")
        del left[key]
    pending = []
    runs = {key: partial(forks.start, mutant, tests[key]) for key, mutant in left.items()}
    for key, code in in_turn(runs, jobs, say):
        if code == AT_IMPORT:
            pending.append(Pending(key, tuple(tests[key]), sum(forks.seconds[test] for test in tests[key])))
        else:
            verdicts.add(key, code in (KILLED, TIMEOUT), HOW.get(code, "it crashed"))
    return pending


def import_all(
    sources: Sequence[Source],
    mutants: Sequence[Mutant],
    pending: Sequence[Pending],
    verdicts: Verdicts,
    options: Sequence[str],
    chosen: argparse.Namespace,
    say: Any,
) -> str:
    """The same for these; a problem, or ""."""
    by_file, by_key = {source.file: source for source in sources}, {mutant.key: mutant for mutant in mutants}

    def start(one: Pending) -> Fork:
        mutant = by_key[one.key]
        source = by_file[mutant.file]
        return imported.start(str(source.path), source.mutated(mutant), one, options, chosen.folder, chosen.examples)

    if not pending:
        return ""
    most = max(pending, key=lambda one: len(one.tests))
    unchanged = {"": partial(imported.start, "", "", most, options, chosen.folder, chosen.examples)}
    if any(code != SURVIVED for _, code in in_turn(unchanged, 1, say)):
        return "a test fails in a fork that collects anew, without a change"
    say(f"  {len(pending)} to be imported")
    for key, code in in_turn({one.key: partial(start, one) for one in pending}, chosen.jobs, say):
        verdicts.add(key, code in (KILLED, TIMEOUT), HOW.get(code, "it crashed"))
    return ""


def collected(module: str, forks: Forks, arguments: Sequence[str]) -> str:
    """Run pytest with that plugin in a fork, for this process to import nothing of this project; a problem, or ""."""
    told = CACHE / f"{module}.problem"
    told.write_text("pytest broke off")
    if not (pid := os.fork()):
        with (CACHE / f"{module}.log").open("wb") as output:
            os.dup2(output.fileno(), 1)
        forks.lines.watch()
        try:
            pytest.main([*arguments], plugins=[forks])
            told.write_text(forks.problem)
        finally:
            os._exit(0)
    try:
        os.waitpid(pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return told.read_text()


def run(module: str, chosen: argparse.Namespace) -> int:
    wanted = tomllib.loads((HERE / "modules.toml").read_text())[module]
    files = list(files_under(ROOT, wanted["sources"]))
    tests = [ROOT / file for file in files_under(ROOT, wanted["tests"])]
    log = CACHE / f"{module}.jsonl"
    chosen.examples = wanted.get("examples", EXAMPLES)
    CACHE.mkdir(parents=True, exist_ok=True)
    if chosen.fresh:
        log.unlink(missing_ok=True)
    known = partial(Verdicts, log, {file: digest([ROOT / file]) for file in files}, digest(tests))
    verdicts = known()
    sources = [Source(ROOT, file) for file in files]
    every = [mutant for source in sources for mutant in source.mutants()]
    mutants = [mutant for mutant in every if chosen.only in mutant.key]
    out = os.fdopen(os.dup(1), "w")

    def say(text: str) -> None:
        print(text, file=out, flush=True)

    def work(forks: Forks) -> None:
        say(f"{module}: {len(every)} mutants, {len(forks.items)} tests in {sum(forks.seconds.values()):.0f} s")
        write_pending(waiting, try_all(forks, mutants, verdicts, chosen.jobs, say), ROOT)

    problem, waiting = "", CACHE / f"{module}.pending"
    if any(verdicts.of(mutant.key) is None for mutant in mutants):
        options = [*PYTEST, *(f"--deselect={test}" for test in wanted.get("without", ()))]
        forks = Forks(sources, chosen.examples, work)
        # Of its own: pytest removes older runs' folders in the common one, while their tests go on.
        with tempfile.TemporaryDirectory() as folder:
            problem = collected(module, forks, [*options, f"--basetemp={folder}/whole", *wanted["tests"]])
            verdicts, chosen.folder = known(), folder
            problem = problem or import_all(sources, mutants, read_pending(waiting), verdicts, options, chosen, say)
    declared = Declared.read(HERE / "survivors.toml")
    summary = Summary.of(module, files, [mutant.key for mutant in every], verdicts, declared)
    if not summary.untried:
        summary.write(HERE / "results" / f"{module}.json")
    for key in summary.survivors:
        if chosen.only in key:
            say(f"  survived: {key}")
    for one in summary.stale:
        say(f"  declared as a survivor, but {one}")
    say(f"{module}: {problem}; see .cache/mutants/{module}.log" if problem else str(summary))
    return 1 if problem or not summary.good else 0


def main() -> int:
    modules = tomllib.loads((HERE / "modules.toml").read_text())
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", choices=[[], *modules], metavar="MODULE", help="some of them; none: all")
    parser.add_argument("--only", default="", help="mutants whose key holds this: a file, a function, an operator")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    parser.add_argument("--fresh", action="store_true", help="forget the verdicts that there are")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if len(chosen.modules) == 1:
        return run(chosen.modules[0], chosen)
    ended = []
    for module in chosen.modules or modules:  # each in a process of its own: its tests, and no others', are imported
        again = [sys.executable, "-m", "mutation", module, "--only", chosen.only, "--jobs", str(chosen.jobs)]
        child = subprocess.Popen([*again, *(["--fresh"] if chosen.fresh else [])])
        try:
            ended.append(child.wait())
        finally:
            child.terminate()  # it ends what it started
            child.wait()
    return max(ended)


if __name__ == "__main__":
    sys.exit(main())
