"""Plug-ins as installed distributions: found by their metadata, and refused where they cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.plugin_package import install
from toolorchestra.extend import contracts
from toolorchestra.plugins import PluginError, installed, load
from toolorchestra.rewards.registry import RewardConfig, build_combiner
from toolorchestra.tasks.grader import GraderFailure, check_grader, grade, reference_answer
from toolorchestra.tasks.task import GraderSpec, Task

ENTRIES = """
[toolorchestra.combiners]
Fine = odd_parts:Fine
Absent = odd_parts:Absent
NoModule = odd_parts_that_are_not_there:Fine
Leaves = odd_parts.leaves:Fine
Fails = odd_parts.fails:Fine
Twice = odd_parts:Fine
Twice = odd_parts.fails:Fine
NotMade = odd_parts:not_made
Number = odd_parts:number
RaisesLater = odd_parts:raises_later

[toolorchestra.graders]
Fine = odd_parts:Grader
Half = odd_parts:Half
Boxed = odd_parts.boxed:Boxed
"""
MODULES = {
    "odd_parts/__init__.py": """
class Fine:
    def __init__(self, config): self.config = config
    def __call__(self, groups): return []
def not_made(config): raise KeyError("scale")
def number(config): return 7
def raises_later(config):
    def combine(groups): return groups[0].nothing
    return combine
class Half:
    def score(self, task, answer): return 1.0
class Grader(Half):
    def check(self, data):
        if data: raise RuntimeError("broken check")
    def reference(self, data): return None
""",
    "odd_parts/boxed.py": """
from toolorchestra.extend import Program
def double(job):
    return float(eval(job["answer"], {"__builtins__": {}}) == 2 * job["half"])
class Boxed:
    program = Program(run="odd_parts.boxed:double")
    def check(self, data):
        if set(data) != {"half"}: raise ValueError("wants half")
    def reference(self, data): return str(2 * data["half"])
    def job(self, task, answer): return {"answer": answer, "half": task.grader.data["half"]}
""",
    "odd_parts/leaves.py": "raise SystemExit('no licence')",
    "odd_parts/fails.py": "import a_library_that_is_missing",
}


@pytest.fixture(autouse=True)
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose name PyPI writes otherwise, and whose parts are odd."""
    install(tmp_path, name="Odd_Parts", modules=MODULES, entry_points=ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_plug_in_is_named_by_its_normalised_package() -> None:
    assert "odd-parts/Fine" in installed("toolorchestra.combiners")
    assert load("toolorchestra.combiners", "odd-parts/Fine").__name__ == "Fine"
    with pytest.raises(PluginError):
        load("toolorchestra.combiners", "Odd_Parts/Fine")


def test_what_is_not_installed_is_told_with_what_is() -> None:
    with pytest.raises(PluginError) as caught:
        load("toolorchestra.combiners", "acme/Cheapest")
    said = str(caught.value)
    assert said.startswith("combiner acme/Cheapest is not installed here (installed: odd-parts/Absent, odd-parts/Fails")
    assert "install its package where the training runs" in said
    with pytest.raises(PluginError, match=r"task source acme/Riddles is not installed here"):
        load("toolorchestra.task_sources", "acme/Riddles")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Absent", "cannot be imported from odd_parts:Absent: AttributeError"),
        ("NoModule", "ModuleNotFoundError: No module named 'odd_parts_that_are_not_there'"),
        ("Leaves", "cannot be imported from odd_parts.leaves:Fine: SystemExit: no licence"),
        ("Fails", "No module named 'a_library_that_is_missing'"),
        ("Twice", r"is there 2 times \(odd_parts:Fine, odd_parts.fails:Fine\)"),
        ("NotMade", "cannot be made: KeyError: 'scale'"),
        ("Number", "makes a int, which cannot be called"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_error(name: str, says: str) -> None:
    with pytest.raises(PluginError, match=f"^combiner odd-parts/{name} .*{says}"):
        build_combiner(RewardConfig(combiner=f"odd-parts/{name}"))


def test_a_combiner_that_raises_later_is_named_then() -> None:
    combiner = build_combiner(RewardConfig(combiner="odd-parts/RaisesLater"))
    with pytest.raises(PluginError, match="combiner odd-parts/RaisesLater raised IndexError"):
        combiner([])


def test_a_grader_that_lacks_a_part_or_breaks_in_its_check() -> None:
    assert check_grader(GraderSpec(type="odd-parts/Fine")) == []
    ((field, message),) = check_grader(GraderSpec(type="odd-parts/Half"))
    assert (field, message) == (
        "grader.type",
        "grader odd-parts/Half is none: it has no check, reference (docs/extending.md)",
    )
    ((field, message),) = check_grader(GraderSpec(type="odd-parts/Fine", data={"a": 1}))
    assert (field, message) == ("grader.data", "the check of odd-parts/Fine raised RuntimeError: broken check")


def test_a_grader_that_runs_code_on_the_answer_does_so_in_the_sandbox() -> None:
    """It evaluates the answer, so that hostile ones raise: there, and not here."""
    contracts.grader("odd-parts/Boxed", data={"half": 2}, right=["4", "2 + 2"], wrong=["5", "2 +", "1 / 0", "x"])


def test_a_worker_without_the_grader_scores_nothing() -> None:
    task = Task(id="t", instruction="?", source="s", grader=GraderSpec(type="acme/Near"))
    with pytest.raises(
        GraderFailure, match=r"^task t: grader acme/Near is not installed here \(installed: odd-parts/Boxed"
    ):
        grade(task, "4")
    assert reference_answer(task) is None
