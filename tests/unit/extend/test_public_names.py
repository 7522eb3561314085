"""What `toolorchestra.extend` exports: exactly these names, described, complete, and light to import."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import subprocess
import sys
import typing
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

NAMES = {
    "toolorchestra.extend": """
        ChatReply ChatRequest Combiner CombinerMaker Comparing EpisodeComponents ExpertError ExpertRefused ExpertTool
        ExpertUnavailable Experts FunctionExperts FunctionTool Grader GraderFailure GraderMaker GraderSpec
        GroupComponents GroupFilter GroupReward Message PluginError Price Program Reason Reserve RewardConfig Sandboxed
        SourceError SourceMaker Split Task TaskKind TaskSource ToolCall ToolRefused UnknownPool Usage standardise
    """,
    "toolorchestra.extend.objective": "LossConfig LossInputs LossOutputs MAX_LOG_RATIO Objective ObjectiveMaker",
    "toolorchestra.extend.contracts": "ContractBroken combiner experts grader objective source tool",
}
"""Public: a name that leaves is a change that CHANGELOG.md announces."""
MODULES = [importlib.import_module(name) for name in NAMES]
EVERYTHING = {name: getattr(module, name) for module in MODULES for name in module.__all__}
module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)


@module
def test_these_names_and_no_others_are_exported(module: ModuleType) -> None:
    assert sorted(module.__all__) == sorted(NAMES[module.__name__].split())


def described(owner: ModuleType, name: str) -> bool:
    """Whether a class or function has a docstring of its own, or an alias the string that explains it."""
    value = getattr(owner, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return bool(value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__)
    (home,) = [
        importlib.import_module(node.module)
        for node in ast.parse(Path(str(owner.__file__)).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module and any(each.name == name for each in node.names)
    ]
    body = ast.parse(Path(str(home.__file__)).read_text(encoding="utf-8")).body
    for node, following in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            return isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
    return False


@module
def test_every_name_is_described(module: ModuleType) -> None:
    assert [name for name in module.__all__ if not described(module, name)] == []


def mentioned(hint: object) -> Iterator[type]:
    """Classes of this project in a type hint, however deep."""
    if isinstance(hint, type) and hint.__module__.startswith("toolorchestra"):
        yield hint
    for inner in typing.get_args(hint):
        for each in inner if isinstance(inner, list) else [inner]:
            yield from mentioned(each)


def hints_of(value: object) -> Iterator[object]:
    """Type hints of a function, or of the fields and public methods of a class."""
    if inspect.isfunction(value):
        yield from typing.get_type_hints(value).values()
    elif inspect.isclass(value) and not issubclass(value, enum.Enum):
        yield from typing.get_type_hints(value).values()
        ours = [each for each in value.__mro__ if each.__module__.startswith("toolorchestra")]
        for name, member in (item for each in ours for item in vars(each).items()):
            function = member.fget if isinstance(member, property) else member
            public = not name.startswith("_") or name in ("__init__", "__call__")
            if public and inspect.isfunction(function) and not issubclass(value, BaseModel):
                yield from typing.get_type_hints(function).values()
    else:
        yield value  # an alias


def test_the_types_in_signatures_are_exported_too() -> None:
    exported = [value for value in EVERYTHING.values() if inspect.isclass(value)]
    found = {each for value in EVERYTHING.values() for hint in hints_of(value) for each in mentioned(hint)}
    assert len(found) > 20
    assert {each.__qualname__ for each in found if each not in exported} == set()


@pytest.mark.parametrize("name", ["toolorchestra.extend", "toolorchestra.extend.contracts"])
def test_importing_it_brings_neither_torch_nor_ray(name: str) -> None:
    program = f"import sys, {name}; print(*({{'torch', 'ray', 'transformers', 'vllm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
