"""Mutation testing: which changes are made, who notices them, and what is known of it later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutation.mutants import Source
from mutation.run_tests import exchange
from mutation.verdicts import Declared, Summary, Verdicts

ROOT = Path(__file__).resolve().parents[3]
CODE = '''\
"""A docstring."""
LIMIT: Final[int] = 3


class Door:
    def opens(self, age: int, name: str = "nobody") -> bool:
        """Another one."""
        if age < LIMIT:
            raise ValueError(f"{name} is {age + 1}: too young to open it")
        log.info("opened", age * 2)
        message = "it is opened"
        return tell(message, key="door", to=name) and all(part for part in name if part)
'''


def mutants(folder: Path, code: str) -> dict[str, set[str]]:
    """By function: operators and changes."""
    (folder / "code.py").write_text(code)
    found: dict[str, set[str]] = {}
    for one in Source(folder, "code.py").mutants():
        found.setdefault(one.function, set()).add(f"{one.operator}: {one.change}")
    return found


def test_what_is_changed_and_what_is_not(tmp_path: Path) -> None:
    """Not: messages, what is raised and logged, docstrings, annotations."""
    assert mutants(tmp_path, CODE) == {
        "": {
            "number: LIMIT: Final[int] = 3 → LIMIT: Final[int] = 4",
            'string: name: str = "nobody" → name: str = "XXnobodyXX"',
        },
        "Door.opens": {
            "negate: if age < LIMIT → if not (age < LIMIT)",
            "swap_op: age < LIMIT → age <= LIMIT",
            "arg_removal: tell: message → None",
            'arg_removal: tell: key="door" → nothing',
            "arg_removal: tell: to=name → nothing",
            'string: tell(message, key="door", to=name) → tell(message, key="XXdoorXX", to=name)',
            'swap_op: tell(message, key="door", to=name) and all(part for part in name if part) → '
            'tell(message, key="door", to=name) or all(part for part in name if part)',
            "arg_removal: all: part for part in name if part → None",
            "negate: for part in name if part → for part in name if not (part)",
        },
    }


def test_the_same_change_twice_has_two_names(tmp_path: Path) -> None:
    assert mutants(tmp_path, "def f(a):\n    g(a)\n    g(a)\n")["f"] == {
        "arg_removal: g: a → None",
        "arg_removal: g: a → None (#2)",
    }


def test_whoever_has_the_function_has_its_change(tmp_path: Path) -> None:
    before = "def one(x):\n    return [y + 1 for y in x]\n\ndef two():\n    return 2\n"
    path, space = str(tmp_path / "code.py"), {}
    exec(compile(before, path, "exec"), space)
    held, other = space["one"], space["two"]
    assert exchange(path, before, before.replace("+", "-").replace("2", "3"), "one")
    assert (held([5]), other()) == ([4], 2)
    assert not exchange(path, before, before, "three"), "no such function: it has to be imported anew"


WEAK = """
from thing import LIMITS, biggest

def test_biggest():
    assert biggest(1, 2) == 2
    assert LIMITS[0] == 1
"""
THING = """
LIMITS = (1, 2)

def biggest(a, b):
    return a if a > b else b

def unseen(n):
    return n + 1
"""
RUN = """
import sys
from pathlib import Path
import mutation.__main__ as program
program.ROOT = program.HERE = Path.cwd()
program.CACHE = program.ROOT / "cache"
Path("results").mkdir()
Path("survivors.toml").touch()
Path("modules.toml").write_text('[m]\\nsources = ["thing.py"]\\ntests = ["test_thing.py"]\\n')
sys.exit(program.main())
"""


def told(folder: Path) -> dict[str, str]:
    """How each mutant of the small project ended."""
    (folder / "thing.py").write_text(THING)
    (folder / "test_thing.py").write_text(WEAK)
    paths = (folder, ROOT / "tests", ROOT / "workers", ROOT / "operator")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    ended = subprocess.run(
        [sys.executable, "-c", RUN, "m", "--jobs", "2"], cwd=folder, env=env, timeout=300, check=False
    )
    assert ended.returncode == 1, "too many survive"
    lines = map(json.loads, (folder / "cache/m.jsonl").read_text().splitlines())
    return {one["key"].removeprefix("thing.py | "): one["how"] for one in lines}


def test_a_small_project(tmp_path: Path) -> None:
    """In forks, and, for what runs at import, in new processes."""
    ended = told(tmp_path)
    assert {key: how for key, how in ended.items() if how != "a test failed"} == {
        " | number | LIMITS = (1, 2) → LIMITS = (1, 3)": "all tests passed",
        "biggest | swap_op | a if a > b else b → a if a >= b else b": "all tests passed",
        "biggest | if_exp | a if a > b else b → a if (a > b) and False else b": "all tests passed",
        "unseen | number | return n + 1 → return n + 2": "no test comes by",
        "unseen | swap_op | return n + 1 → return n - 1": "no test comes by",
    }
    assert ended[" | number | LIMITS = (1, 2) → LIMITS = (2, 2)"] == "a test failed"


KEYS = ("a.py | f | negate | x", "a.py | f | negate | y", "b.py | g | negate | z")


def test_a_verdict_stays_for_as_long_as_it_is_true(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    first = Verdicts(log, {"a.py": "1", "b.py": "1"}, "tests 1")
    for key, killed in zip(KEYS, (True, False, True), strict=True):
        first.add(key, killed, "")
    with log.open("a") as file:
        file.write('{"key": "a.py | f')  # it was ended while it wrote

    def known(source: str, tests: str) -> list[bool | None]:
        again = Verdicts(log, {"a.py": source, "b.py": "1"}, tests)
        return [again.of(key) for key in KEYS]

    assert known("1", "tests 1") == [True, False, True]
    assert known("1", "tests 2") == [True, None, True], "another test may kill it"
    assert known("2", "tests 1") == [None, None, True], "another file"


def declared(folder: Path, *changes: str, why: str = "the same") -> Declared:
    path = folder / "survivors.toml"
    table = f'[[survivor]]\nfile = "a.py"\nfunction = "f"\noperator = "negate"\nwhy = "{why}"\n'
    path.write_text(f"{table}changes = {json.dumps(changes)}\n")
    return Declared.read(path)


def test_a_declared_survivor_has_to_be_one(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path / "log.jsonl", {"a.py": "1", "b.py": "1"}, "1")
    for key, killed in zip(KEYS, (True, False, False), strict=True):
        verdicts.add(key, killed, "")
    files = ("a.py", "b.py")
    good = Summary.of("m", files, KEYS, verdicts, declared(tmp_path, "y"))
    assert (good.killed, good.declared, good.survivors, good.stale) == (1, 1, KEYS[2:], ())
    assert (good.percent, good.good) == (50.0, False)
    stale = Summary.of("m", files, KEYS, verdicts, declared(tmp_path, "x", "y", "w"))
    assert stale.stale == ("no such mutant: a.py | f | negate | w", "killed: a.py | f | negate | x")
    verdicts.add(KEYS[2], True, "")
    assert Summary.of("m", files, KEYS, verdicts, declared(tmp_path, "y")).good
    assert not Summary.of("m", files, KEYS, verdicts, declared(tmp_path, "x", "y")).good


def test_a_declared_survivor_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"why\? a\.py \| f \| negate \| y"):
        declared(tmp_path, "y", why=" ")
