"""A pytest plugin (`-p mutation.imported`): one file is imported as it is changed.

What it is told is in MUTANT_FILE, the file's path, MUTANT_SOURCE, the path of what stands for it, and MUTANT_EXAMPLES,
how many a Hypothesis test takes.
"""

from __future__ import annotations

import importlib.machinery
import os
from pathlib import Path
from types import CodeType

import pytest

from mutation.run_tests import few_examples

FILE, SOURCE = os.environ["MUTANT_FILE"], Path(os.environ["MUTANT_SOURCE"]).read_text()
whole = importlib.machinery.SourceFileLoader.get_code


def changed(loader: importlib.machinery.SourceFileLoader, name: str) -> CodeType | None:
    if loader.path == FILE:
        return compile(SOURCE, FILE, "exec", dont_inherit=True)
    return whole(loader, name)


importlib.machinery.SourceFileLoader.get_code = changed  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        few_examples(item, int(os.environ["MUTANT_EXAMPLES"]))
