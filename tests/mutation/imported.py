"""Tests on a file that is imported as it is changed.

In a fork of a process that has imported nothing of this project, and everything else that the tests need.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType

import pytest

from mutation.run_tests import AT_LEAST, KILLED, SLOWER, SURVIVED, Fork, few_examples


@dataclass(frozen=True)
class Pending:
    """A mutant that is to be imported; its tests, and the seconds that they take."""

    key: str
    tests: tuple[str, ...]
    seconds: float


def write_pending(path: Path, pending: Sequence[Pending], root: Path) -> None:
    """With the names of all modules that are imported and not of this project."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    others = [name for name, file in files.items() if file and not Path(file).is_relative_to(root)]
    path.write_text(json.dumps({"modules": others, "mutants": [asdict(one) for one in pending]}))


def read_pending(path: Path) -> list[Pending]:
    """Imports those modules."""
    told = json.loads(path.read_text())
    for name in told["modules"] if told["mutants"] else ():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return [Pending(one["key"], tuple(one["tests"]), one["seconds"]) for one in told["mutants"]]


class FewExamples:
    """A pytest plugin."""

    def __init__(self, most: int) -> None:
        self._most = most

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            few_examples(item, self._most)


def start(path: str, changed: str, pending: Pending, options: Sequence[str], folder: str, examples: int) -> Fork:
    """A fork in which that file has the changed source; `folder`: for its tests' files."""
    whole = importlib.machinery.SourceFileLoader.get_code

    def code(loader: importlib.machinery.SourceFileLoader, name: str) -> CodeType | None:
        if loader.path == path:
            return compile(changed, path, "exec", dont_inherit=True)
        return whole(loader, name)

    def run() -> int:
        importlib.machinery.SourceFileLoader.get_code = code  # type: ignore[method-assign, assignment]
        scratch = f"--basetemp={folder}/{os.getpid()}"
        ended = pytest.main([*options, scratch, "-x", *pending.tests], plugins=[FewExamples(examples)])
        return SURVIVED if ended == 0 else KILLED

    return Fork.of(run, 10 * AT_LEAST + SLOWER * pending.seconds)
