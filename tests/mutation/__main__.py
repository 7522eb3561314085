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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mutation.mutants import Mutant, Source
from mutation.run_tests import AT_IMPORT, AT_LEAST, KILLED, SLOWER, SURVIVED, TIMEOUT, Fork, Forks, files_under
from mutation.verdicts import Declared, Summary, Verdicts, digest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
CACHE = ROOT / ".cache/mutants"
EXAMPLES = 15
CHOICE = "not real and not controlplane and not chart and not cluster and not long"
PYTEST = ("-q", "-o", "addopts=", "--import-mode=importlib", "-m", CHOICE)
PYTEST += ("-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none")
HOW = {KILLED: "a test failed", SURVIVED: "all tests passed", TIMEOUT: "it took too long"}


@dataclass(frozen=True)
class NewProcess:
    """Tests on a file that is imported as it is changed."""

    child: subprocess.Popen[bytes]
    source: Path
    until: float

    @classmethod
    def start(cls, forks: Forks, mutant: Mutant, examples: int) -> NewProcess:
        source = forks.sources[mutant.file]
        tests = forks.tests_of(mutant)
        with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as written:
            written.write(source.mutated(mutant))
        told = {"MUTANT_FILE": str(source.path), "MUTANT_SOURCE": written.name, "MUTANT_EXAMPLES": str(examples)}
        argv = [sys.executable, "-m", "pytest", "-x", *forks.options, "-p", "mutation.imported"]
        argv += tests
        unseen, env = subprocess.DEVNULL, {**os.environ, **told}
        child = subprocess.Popen(argv, cwd=source.root, env=env, stdout=unseen, stderr=unseen, process_group=0)
        allowed = 10 * AT_LEAST + SLOWER * sum(forks.seconds[test] for test in tests)
        return cls(child, Path(written.name), time.monotonic() + allowed)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.source.unlink()

    def ended(self) -> int | None:
        code = self.child.poll()
        if code is None and time.monotonic() < self.until:
            return None
        self.end()
        return TIMEOUT if code is None else (SURVIVED if code == 0 else KILLED)


def try_all(forks: Forks, mutants: Sequence[Mutant], verdicts: Verdicts, jobs: int, examples: int, say: Any) -> None:
    """Every mutant without a verdict gets one, `jobs` at a time."""
    left = [mutant for mutant in mutants if verdicts.of(mutant.key) is None]
    running: list[tuple[Mutant, Fork | NewProcess]] = []
    done, began = 0, time.monotonic()
    try:
        while left or running:
            while left and len(running) < jobs:
                mutant = left.pop(0)
                if tests := forks.tests_of(mutant):
                    running.append((mutant, forks.start(mutant, tests)))
                else:
                    verdicts.add(mutant.key, False, "no test comes by")
            time.sleep(0.005)
            for one in list(running):
                mutant, run = one
                if (code := run.ended()) is None:
                    continue
                running.remove(one)
                if code == AT_IMPORT:
                    running.append((mutant, NewProcess.start(forks, mutant, examples)))
                    continue
                verdicts.add(mutant.key, code in (KILLED, TIMEOUT), HOW.get(code, "it crashed"))
                done += 1
                if done % 100 == 0:
                    say(f"  {done} tried in {time.monotonic() - began:.0f} s, {len(left)} left")
    finally:
        for _, run in running:
            run.end()


def run(module: str, chosen: argparse.Namespace) -> int:
    wanted = tomllib.loads((HERE / "modules.toml").read_text())[module]
    files = list(files_under(ROOT, wanted["sources"]))
    tests = [path for test in wanted["tests"] for path in (ROOT / test).rglob("*.py")]
    log, examples = CACHE / f"{module}.jsonl", wanted.get("examples", EXAMPLES)
    CACHE.mkdir(parents=True, exist_ok=True)
    if chosen.fresh:
        log.unlink(missing_ok=True)
    verdicts = Verdicts(log, {file: digest([ROOT / file]) for file in files}, digest(tests))
    sources = [Source(ROOT, file) for file in files]
    every = [mutant for source in sources for mutant in source.mutants()]
    mutants = [mutant for mutant in every if chosen.only in mutant.key]
    out = os.fdopen(os.dup(1), "w")

    def say(text: str) -> None:
        print(text, file=out, flush=True)

    def work(forks: Forks) -> None:
        say(f"{module}: {len(every)} mutants, {len(forks.items)} tests in {sum(forks.seconds.values()):.0f} s")
        try_all(forks, mutants, verdicts, chosen.jobs, examples, say)

    problem = ""
    if any(verdicts.of(mutant.key) is None for mutant in mutants):
        options = [*PYTEST, *(f"--deselect={test}" for test in wanted.get("without", ()))]
        with (CACHE / f"{module}.log").open("wb") as told:  # what pytest tells, in forks too
            os.dup2(told.fileno(), 1)
        forks = Forks(sources, options, examples, work)
        pytest.main([*options, *wanted["tests"]], plugins=[forks])
        problem = forks.problem
    declared = Declared.read(HERE / "survivors.toml")
    summary = Summary.of(module, files, [mutant.key for mutant in every], verdicts, declared)
    if not summary.untried:
        summary.write(HERE / "results" / f"{module}.json")
    for key in summary.survivors:
        if chosen.only in key:
            say(f"  survived: {key}")
    for one in summary.stale:
        say(f"  declared as a survivor, but {one}")
    say(f"{module}: {problem}: {CACHE / module}.log" if problem else str(summary))
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
        ended.append(subprocess.run([*again, *(["--fresh"] if chosen.fresh else [])], check=False).returncode)
    return max(ended)


if __name__ == "__main__":
    sys.exit(main())
