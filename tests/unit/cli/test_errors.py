"""docs/errors.md and the code agree: which errors there are, from which root they derive, and which are not errors."""

from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = (ROOT / "workers" / "toolorchestra", ROOT / "operator" / "toolorchestra_operator")
OPERATOR = "toolorchestra_operator"

NOT_ERRORS = "Not errors"
INSIDE = "Inside one module"
GENERAL = frozenset(
    {
        *("BaseException", "Exception", "RuntimeError", "ValueError"),
        *("OSError", "LookupError", "ArithmeticError", "TimeoutError"),
    }
)
"""What says nothing of what happened. KeyError, IndexError, TypeError, EOFError and their like are protocols."""

BROKEN_PROMISE = "a caller broke what the docstring demands: a bug, and its traceback is wanted"
VALIDATOR = "pydantic turns it into a line of its ValidationError"
PARSER = "reads a text as int() does: the caller knows whether the text is a person's"
ROOM = "the room catches it"
SYSTEM_CALL = "a system call that failed, or that this processor lacks; the room says which protection is missing"
ALLOWED = {
    ("toolorchestra/api/crd.py", "ValueError"): "make crds, for who changes the models",
    ("toolorchestra/bus/protocol.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/bus/streams.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/cli/reward.py", "ValueError"): ROOM,
    ("toolorchestra/controller/arrival.py", "ValueError"): ROOM,
    ("toolorchestra/evaluation/interval.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/experts/build.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/experts/lenient_json.py", "ValueError"): PARSER,
    ("toolorchestra/experts/simulated.py", "ValueError"): ROOM,
    ("toolorchestra/experts/simulator.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/experts/wire.py", "ValueError"): ROOM,
    ("toolorchestra/ledger/history.py", "ValueError"): "an account of the ledger that does not add up: a bug",
    ("toolorchestra/ledger/spend.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/policy/parser.py", "ValueError"): ROOM,
    ("toolorchestra/policy/version.py", "ValueError"): PARSER,
    ("toolorchestra/process.py", "RuntimeError"): BROKEN_PROMISE,
    ("toolorchestra/rewards/registry.py", "ValueError"): "the YAML is checked by api/; orchestra reward says it itself",
    ("toolorchestra/rollout/baselines.py", "ValueError"): ROOM,
    ("toolorchestra/rollout/identity.py", "ValueError"): PARSER,
    ("toolorchestra/sandbox/linux.py", "OSError"): SYSTEM_CALL,
    ("toolorchestra/sandbox/privileges.py", "OSError"): SYSTEM_CALL,
    ("toolorchestra/sandbox/seccomp.py", "OSError"): SYSTEM_CALL,
    ("toolorchestra/sandbox/zygote.py", "RuntimeError"): BROKEN_PROMISE,
    ("toolorchestra/tasks/exact.py", "ValueError"): VALIDATOR,
    ("toolorchestra/tasks/gym.py", "ValueError"): VALIDATOR,
    ("toolorchestra/telemetry/groups.py", "ValueError"): PARSER,
    ("toolorchestra/tools/view.py", "ValueError"): VALIDATOR,
    ("toolorchestra/trainer/batch.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/trainer/facade.py", "RuntimeError"): BROKEN_PROMISE,
    ("toolorchestra/trainer/fused.py", "ArithmeticError"): ROOM,
    ("toolorchestra/trainer/group.py", "RuntimeError"): BROKEN_PROMISE,
    ("toolorchestra/trainer/objectives/clipped.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/trainer/packing.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/trainer/sharding.py", "RuntimeError"): BROKEN_PROMISE,
    ("toolorchestra/trainer/trainer.py", "RuntimeError"): BROKEN_PROMISE,
    ("toolorchestra/trainer/trainer.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/weights/checkpoint.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra/weights/snapshot.py", "ValueError"): ROOM,
    ("toolorchestra_operator/kubernetes/openapi.py", "LookupError"): BROKEN_PROMISE,
    ("toolorchestra_operator/kubernetes/quantity.py", "ValueError"): PARSER,
    ("toolorchestra_operator/pools/desired.py", "ValueError"): BROKEN_PROMISE,
    ("toolorchestra_operator/runtime/rendering.py", "RuntimeError"): "a reconcile that never comes to rest: a bug",
    ("toolorchestra_operator/runtime/settings.py", "ValueError"): VALIDATOR,
    ("toolorchestra_operator/trainings/experts.py", "ValueError"): BROKEN_PROMISE,
}
"""Where an error without a class of ours is raised, and why it needs none."""


@dataclass(frozen=True)
class Module:
    """A module of the code: its path under `workers/` or `operator/`, and what is in it."""

    path: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def room(self) -> str:
        """As a heading of the page names it."""
        package, first, *_ = self.path.split("/")
        return f"{package}/" if package == OPERATOR else f"{first.removesuffix('.py')}/"


Class = tuple[str, str]
"""Module and name."""


@cache
def modules() -> dict[str, Module]:
    found = (
        Module(str(file.relative_to(package.parent)), ast.parse(file.read_text(encoding="utf-8")))
        for package in PACKAGES
        for file in sorted(package.rglob("*.py"))
    )
    return {module.name: module for module in found}


@cache
def bases() -> dict[Class, tuple[str | Class, ...]]:
    """Every class at the top of a module, with its bases: a class of ours, or the name of another's."""
    found: dict[Class, tuple[str | Class, ...]] = {}
    for module in modules().values():
        here = {node.name for node in module.tree.body if isinstance(node, ast.ClassDef)}
        imported: dict[str, Class] = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ImportFrom) and node.module is not None
            for alias in node.names
        }
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                named = (ast.unparse(base) for base in node.bases)
                found[module.name, node.name] = tuple(
                    (module.name, base) if base in here else imported.get(base, base) for base in named
                )
    return found


def derives(one: str | Class, other: str | Class) -> bool:
    """Whether `one` is `other`, or is derived from it."""
    if one == other:
        return True
    if isinstance(one, str):
        ours, theirs = getattr(builtins, one, None), getattr(builtins, other, None) if isinstance(other, str) else None
        return isinstance(ours, type) and isinstance(theirs, type) and issubclass(ours, theirs)
    return any(derives(base, other) for base in bases().get(one, ()))


@cache
def errors() -> tuple[Class, ...]:
    """Every exception class of the code."""
    return tuple(one for one in bases() if derives(one, "BaseException"))


def in_room(room: str) -> dict[str, Class]:
    """The public errors of a room by their names, which are unique in it."""
    found = [one for one in errors() if modules()[one[0]].room == room and not one[1].startswith("_")]
    assert len({name for _, name in found}) == len(found), f"{room} has two errors of one name"
    return {name: (module, name) for module, name in found}


@cache
def sections() -> dict[str, str]:
    """The page's sections by heading (without backticks)."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {title.strip("`"): text for title, text in zip(parts[::2], parts[1::2], strict=True)}


@cache
def rooms() -> tuple[str, ...]:
    return tuple(title for title in sections() if title.endswith("/"))


def tree(room: str) -> list[tuple[int, str, str]]:
    """Depth, name and other bases of each line of a section's tree."""
    (text,) = re.findall(r"^```\n(.*?)^```$", sections()[room], re.MULTILINE | re.DOTALL)
    lines = [re.fullmatch(r"((?:  )*)(\w+)(?: \((\w+)\))?", line) for line in text.splitlines()]
    assert all(lines), text
    return [(len(line[1]) // 2, line[2], line[3] or "") for line in lines if line is not None]


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in sections()[section].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def made(room: str) -> set[str]:
    """Names that are called in a room's modules: an error that nobody makes has no row."""
    return {
        node.func.id
        for module in modules().values()
        if module.room == room
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def is_base(one: Class) -> bool:
    """Whether other errors derive from it."""
    return any(derives(other, one) for other in errors() if other != one)


@cache
def control_flow() -> frozenset[Class]:
    """What the page says is no error."""
    names = ((row[1].strip("`").removesuffix(".py").replace("/", "."), row[0].strip("`")) for row in rows(NOT_ERRORS))
    return frozenset((f"toolorchestra.{module}", name) for module, name in names)


def test_every_error_is_on_the_page() -> None:
    """Each exception class belongs to a room with a section, is no error, or stays in its module."""
    shown = {(room, name) for room in rooms() for _, name, _ in tree(room)}
    for module, name in set(errors()) - control_flow():
        if not name.startswith("_"):
            assert (modules()[module].room, name) in shown, f"{name} of {module} is not in docs/errors.md"


@pytest.mark.parametrize("room", rooms())
def test_tree_of_a_room_is_that_of_the_code(room: str) -> None:
    """One root; each name once, under the class that it derives from, with the same other base."""
    lines, known = tree(room), in_room(room)
    known = {name: one for name, one in known.items() if one not in control_flow()}
    assert Counter(name for _, name, _ in lines) == Counter(list(known))
    assert [depth for depth, _, _ in lines].count(0) == 1
    above: list[str] = []
    for depth, name, other in lines:
        del above[depth:]
        (_, root, _), own = lines[0], bases()[known[name]]
        assert derives(known[name], known[root]), f"{name} does not derive from {root}"
        ours = [base for base in own if base in errors()]
        assert ours == ([known[above[-1]]] if above else [])
        theirs = [base for base in own if base not in errors() and base != "Exception"]
        assert theirs == ([other] if other else [])
        above.append(name)


@pytest.mark.parametrize("room", rooms())
def test_rows_of_a_room_are_what_is_raised(room: str) -> None:
    """An error that somebody raises has a row with all five cells; one that is only a base has none."""
    called = made(room)
    known = ((name, one) for name, one in in_room(room).items() if one not in control_flow())
    wanted = [name for name, one in known if name in called or not is_base(one)]
    found = rows(room)
    assert all(len(row) == 5 and all(row) for row in found)
    assert Counter(row[0].strip("`") for row in found) == Counter(wanted)


def test_faults_are_those_of_the_page() -> None:
    """The third column uses the words that the page explains, or `nobody`."""
    head = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    known = {line.split("|")[1].strip() for line in head.splitlines() if line.startswith("| ")} | {"nobody"}
    for room in rooms():
        for row in rows(room):
            assert row[2].split("; ")[0] in known, row


def test_what_is_no_error_derives_from_no_root() -> None:
    assert control_flow() <= set(errors())
    for one in control_flow():
        assert not any(derives(one, other) for other in errors() if other != one), one


def test_what_stays_in_its_module_is_private() -> None:
    """Each private error is listed with its module, and no other module names it."""
    listed = Counter((row[1].strip("`"), row[0].strip("`")) for row in rows(INSIDE))
    private = [one for one in errors() if one[1].startswith("_")]
    assert listed == Counter((modules()[module].path.removeprefix("toolorchestra/"), name) for module, name in private)
    for module, name in private:
        for other in modules().values():
            names = {node.id for node in ast.walk(other.tree) if isinstance(node, ast.Name)}
            assert other.name == module or (other.name, name) in errors() or name not in names


def test_general_errors_have_a_reason() -> None:
    """An error of Python's that says nothing of what happened is raised only where ALLOWED says why."""
    found = set()
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                if isinstance(error, ast.Name) and error.id in GENERAL:
                    found.add((module.path, error.id))
    assert found == set(ALLOWED)
