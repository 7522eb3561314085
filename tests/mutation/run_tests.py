"""The tests of a module, collected once; then a fork per mutant, which runs those that come by its lines.

A fork exchanges the code of the functions that the mutant changes, so that whoever imported them by name has the change
too; or the value of a constant. Where it cannot, or what it changed has run at import, and no test fails, the tests are
collected anew, with the changed file (`imported.py`).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from mutation.mutants import Mutant, Source

SLOWER = 10.0
"""How many times the seconds that its tests take without a change a mutant may take, and …"""
AT_LEAST = 4.0
"""… how many it has at least."""
KILLED, SURVIVED, TIMEOUT, AT_IMPORT = 1, 0, 2, 3


def few_examples(item: pytest.Item, most: int) -> None:
    """The same few for every mutant, and no search for the smallest: what matters is that a test fails."""
    changed: dict[str, Any] = {"derandomize": True, "database": None, "phases": (Phase.explicit, Phase.generate)}
    changed |= {"suppress_health_check": list(HealthCheck), "deadline": None, "report_multiple_bugs": False}
    test = getattr(getattr(item, "obj", None), "__func__", getattr(item, "obj", None))
    for holder, name in ((test, "_hypothesis_internal_use_settings"), (getattr(item, "cls", None), "settings")):
        if isinstance(before := getattr(holder, name, None), settings):
            setattr(holder, name, settings(before, max_examples=min(before.max_examples, most), **changed))


@dataclass
class Lines:
    """Who comes by which line of the files: a test's id, or "" for whoever imports."""

    files: frozenset[str]
    test: str = ""
    by: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))

    def watch(self) -> None:
        threading.settrace(self._called)
        sys.settrace(self._called)

    def leave(self) -> None:
        sys.settrace(None)
        threading.settrace(None)

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        return self._line if frame.f_code.co_filename in self.files else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self.by[frame.f_code.co_filename, frame.f_lineno].add(self.test)
        return self._line

    def of(self, path: str, first: int, last: int) -> set[str]:
        return set().union(*(self.by.get((path, line), ()) for line in range(first, last + 1)))


def codes_of(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """All code in a compiled file, by qualified name and how many of that name came before."""
    found: dict[tuple[str, int], CodeType] = {}

    def walk(one: CodeType) -> None:
        nth = sum(name == one.co_qualname for name, _ in found)
        found[one.co_qualname, nth] = one
        for inner in one.co_consts:
            if isinstance(inner, CodeType):
                walk(inner)

    walk(code)
    return found


def exchange(path: str, source: str, changed: str, function: str) -> bool:
    """Give the functions of that name, and those within it, the code that they have in the changed source. False: one
    of them cannot have it."""
    before = codes_of(compile(source, path, "exec", dont_inherit=True))
    after = codes_of(compile(changed, path, "exec", dont_inherit=True))
    places = {(code.co_qualname, code.co_firstlineno): key for key, code in before.items()}
    exchanged = False
    for one in gc.get_objects():
        if not isinstance(one, FunctionType) or one.__code__.co_filename != path:
            continue
        name = one.__code__.co_qualname
        if name != function and not name.startswith(f"{function}.<locals>."):
            continue
        new = after.get(places.get((name, one.__code__.co_firstlineno), ("", 0)))
        if new is None or len(new.co_freevars) != len(one.__code__.co_freevars):
            return False
        one.__code__, exchanged = new, True
    return exchanged


def rebind(path: str, changed: str, line: int) -> bool:
    """Give a module's constant, and whoever imported it by name, the value that the changed source has on that line.
    False: it is none."""
    statement = next((one for one in ast.parse(changed).body if one.lineno == line), None)
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            pass
        case _:
            return False
    module = next(vars(one) for one in list(sys.modules.values()) if getattr(one, "__file__", None) == path)
    before, space = module[name], dict(module)
    exec(compile(ast.Module([statement], []), path, "exec"), space)
    for one in list(sys.modules.values()):
        if getattr(one, "__dict__", {}).get(name) is before:
            vars(one)[name] = space[name]
    return True


class Forks:
    """A pytest plugin: its run loop calls `work` with itself, once every test has passed without a change, in a fork
    too. `problem`: why it did not. Whoever is about to run pytest calls `lines.watch` first."""

    def __init__(self, sources: Sequence[Source], examples: int, work: Any) -> None:
        self.sources = {source.file: source for source in sources}
        self.examples, self._work = examples, work
        self.lines = Lines(frozenset(str(source.path) for source in sources))
        self.seconds: dict[str, float] = {}
        self.items: dict[str, pytest.Item] = {}
        self.problem = "no tests were run"
        self._in_fork = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            few_examples(item, self.examples)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            if self._in_fork:
                os._exit(KILLED)
            self.problem = f"{report.nodeid} fails without a change"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items, self.problem = {item.nodeid: item for item in session.items}, ""
        for item in session.items:
            self._forget()
            self.lines.test, began = item.nodeid, time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            self.seconds[item.nodeid] = time.process_time() - began
        self.lines.leave()
        if not self.problem and self._fails_in_a_fork():
            self.problem = "a test fails in a fork, without a change"
        if not self.problem:
            self.problem = "it was ended"
            self._work(self)
            self.problem = ""
        return True

    def _fails_in_a_fork(self) -> bool:
        check = self.start(None, list(self.items))
        while (code := check.ended()) is None:
            time.sleep(0.05)
        return code != SURVIVED

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Those that come by, the fast ones first. Of what runs at import: all."""
        path = str(self.sources[mutant.file].path)
        by = self.lines.of(path, *mutant.lines) - {""}
        if self.runs_at_import(mutant):
            by |= set().union(*(tests for (at, _), tests in self.lines.by.items() if at == path)) - {""}
            # Then all others: what a dataclass makes of its fields has no line in the file.
            return sorted(self.items, key=lambda test: (test not in by, self.seconds[test], test))
        return sorted(by, key=lambda test: (self.seconds[test], test))

    def runs_at_import(self, mutant: Mutant) -> bool:
        return not mutant.function or "" in self.lines.of(str(self.sources[mutant.file].path), *mutant.lines)

    def start(self, mutant: Mutant | None, tests: Sequence[str]) -> Fork:
        """A fork that runs them until one fails; None for no change."""
        allowed = AT_LEAST + SLOWER * sum(self.seconds[test] for test in tests)

        def run() -> int:
            self._in_fork = True
            if mutant is not None:
                self._change(mutant)
            for test in tests:
                item = self.items[test]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            return AT_IMPORT if mutant is not None and self.runs_at_import(mutant) else SURVIVED

        return Fork.of(run, allowed)

    def _change(self, mutant: Mutant) -> None:
        source = self.sources[mutant.file]
        self._forget()
        path, changed = str(source.path), source.mutated(mutant)
        if mutant.function:
            known = exchange(path, source.module.code, changed, mutant.function)
        else:
            known = rebind(path, changed, mutant.lines[0])
        if not known:
            os._exit(AT_IMPORT)

    def _forget(self) -> None:
        """What the sources' functions keep of what they returned."""
        for one in self._kept:
            one.cache_clear()

    @functools.cached_property
    def _kept(self) -> list[Any]:
        wrappers = [one for one in gc.get_objects() if isinstance(one, functools._lru_cache_wrapper)]
        codes = ((one, getattr(one.__wrapped__, "__code__", None)) for one in wrappers)
        return [one for one, code in codes if code is not None and code.co_filename in self.lines.files]


@dataclass(frozen=True)
class Fork:
    """One that runs; `until` is of the monotonic clock."""

    pid: int
    until: float

    @classmethod
    def of(cls, run: Callable[[], int], seconds: float) -> Fork:
        """A fork that ends with what `run` returns, and is allowed so many seconds of a CPU."""
        if pid := os.fork():
            return cls(pid, time.monotonic() + 4 * seconds)
        try:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
            for one in (signal.SIGXCPU, signal.SIGTERM):
                signal.signal(one, signal.SIG_DFL)
            os._exit(run())
        except BaseException:
            os._exit(KILLED)

    def end(self) -> None:
        """With whatever its tests started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self) -> int | None:
        """How it ended; None: it runs. Past its time it is ended."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        late = not pid and time.monotonic() > self.until
        if not pid and not late:
            return None
        self.end()
        if late:
            os.waitpid(self.pid, 0)
            return TIMEOUT
        if os.WIFSIGNALED(status):
            return TIMEOUT if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else KILLED
        return os.WEXITSTATUS(status)


def files_under(root: Path, paths: Sequence[str]) -> Iterator[str]:
    """Python files that are not empty, as in the repository."""
    for path in paths:
        found = [root / path] if (root / path).is_file() else sorted((root / path).rglob("*.py"))
        yield from (str(one.relative_to(root)) for one in found if one.stat().st_size)
