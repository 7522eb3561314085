"""The contracts hold of this project's own parts and of those in docs/extending.md, and break where they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.plugin_package import install
from toolorchestra.extend import FunctionExperts, PluginError, contracts
from toolorchestra.extend.contracts import ContractBroken

BROKEN = {
    "graders": {
        "Takes": "class Takes:\n  check = lambda s, data: None\n  reference = lambda s, data: None\n"
        "  score = lambda s, task, answer: 1.0",
        "Raises": "class Raises:\n  def check(s, data):\n    if data: raise ValueError('no')\n"
        "  reference = lambda s, data: None\n  def score(s, task, answer):\n    return float(answer)",
        "Wrong": "class Wrong(Takes):\n  def check(s, data):\n    if data: raise ValueError('no')\n"
        "  reference = lambda s, data: 'a'\n  score = lambda s, task, answer: float(answer == 'b')",
    },
    "task_sources": {
        "Endless": "class Endless(Base):\n  def task(s, index): return task(s, index)",
        "Random": "class Random(Base):\n  def task(s, index):\n    if not 0 <= index < 3: raise IndexError(index)\n"
        "    return task(s, index, str(__import__('random').random()))",
        "Unsolved": "class Unsolved(Base):\n  def task(s, index):\n    if not 0 <= index < 3: raise IndexError(index)\n"
        "    return task(s, index, grader='Nobody')",
    },
    "combiners": {
        "Short": "Short = lambda config: lambda groups: [GroupReward((), (), True) for g in groups]",
        "NaN": "NaN = lambda config: lambda groups: [GroupReward(n(g, nan), n(g, 0.0), True) for g in groups]",
        "Ordered": "Ordered = lambda config: lambda groups: [GroupReward(tuple(map(float, range(len(g.episodes)))),"
        " n(g, 0.0), True) for g in groups]",
        "Dicts": "Dicts = lambda config: lambda groups: [{'rewards': n(g, 0.0)} for g in groups]",
        "Texts": "Texts = lambda config: lambda groups: [GroupReward(n(g, '1'), n(g, 0.0), True) for g in groups]",
        "Unreasoned": "Unreasoned = lambda config: lambda groups: [GroupReward(n(g, 0.0), n(g, 0.0), False)"
        " for g in groups]",
    },
    "objectives": {
        "Mean": "Mean = lambda config: lambda i: LossOutputs(i.logprobs.sum() / max(1, len(i.logprobs)))",
        "Explodes": "Explodes = lambda config: lambda i: LossOutputs((i.weights * (i.logprobs -"
        " i.sampler_logprobs).exp()).sum())",
        "Constant": "Constant = lambda config: lambda i: LossOutputs(i.entropy.sum())",
        "Bare": "Bare = lambda config: lambda i: (i.weights * i.logprobs).sum()",
        "Vector": "Vector = lambda config: lambda i: LossOutputs(i.logprobs)",
    },
}
HEADS = {
    "graders": "",
    "task_sources": "from toolorchestra.extend import GraderSpec, Task\n"
    "def task(s, index, text='?', grader='ExactMatch'):\n"
    "  spec = GraderSpec(type=grader, data={'answer': 'a'})\n"
    "  return Task(id=str(index), instruction=text, source=s.name, grader=spec)\n"
    "class Base:\n  def __init__(s, *, name, parameters): s.name = name\n  def __len__(s): return 3\n"
    "  def place(s, index): return f'{s.name}[{index}]'\n",
    "combiners": "from math import nan\nfrom toolorchestra.extend import GroupReward\n"
    "n = lambda group, value: (value,) * len(group.episodes)\n",
    "objectives": "from toolorchestra.extend.objective import LossOutputs\n",
}


@pytest.fixture(scope="module", autouse=True)
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A package whose every plug-in breaks its contract in one way."""
    modules = {
        f"broken_parts/{group}.py": HEADS[group] + "\n".join(parts.values()) + "\n" for group, parts in BROKEN.items()
    }
    lines = [
        line
        for group, parts in BROKEN.items()
        for line in (f"[toolorchestra.{group}]", *(f"{name} = broken_parts.{group}:{name}" for name in parts))
    ]
    site = install(
        tmp_path_factory.mktemp("broken"), name="broken-parts", modules=modules, entry_points="\n".join(lines)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield


def test_our_own_graders_hold() -> None:
    contracts.grader("ExactMatch", data={"answer": "Paris"}, right=["Paris"], wrong=["London", ""])
    contracts.grader("Numeric", data={"answer": "4"}, right=["4", "4.0"], wrong=["5", "four"])
    entry = {"answer": "4", "metadata": {}}
    contracts.grader(
        "ReasoningGym", data={"dataset": "chain_sum", "entry": entry}, right=["4"], wrong=["5", "__import__('os')"]
    )


@pytest.mark.parametrize("name", ["GDPO", "MinMaxDot", "WeightedSum"])
def test_our_own_combiners_hold(name: str) -> None:
    contracts.combiner(name)


def test_our_own_objective_holds() -> None:
    contracts.objective("Clipped")


def test_the_pages_own_tests_pass(acme: Path) -> None:
    """As their author runs them: in a process of their own."""
    (acme / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_acme_orchestra.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(acme), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=acme, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^6 passed", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [("Takes", "not its own"), ("Raises", "raised ValueError"), ("Wrong", "'a' is right, and does not score")],
)
def test_broken_graders(name: str, says: str) -> None:
    with pytest.raises(ContractBroken, match=says):
        contracts.grader(f"broken-parts/{name}", data={}, right=["a"] if name != "Raises" else ["1"], wrong=["0"])


@pytest.mark.parametrize(
    ("name", "says"),
    [("Endless", "outside the range"), ("Random", "two different tasks"), ("Unsolved", "no grader 'Nobody'")],
)
def test_broken_sources(name: str, says: str) -> None:
    with pytest.raises(ContractBroken, match=says):
        contracts.source(f"broken-parts/{name}", parameters={})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Short", "0 rewards for"),
        ("NaN", "not finite numbers"),
        ("Dicts", "gave a dict for a group; want a GroupReward"),
        ("Texts", "not finite numbers"),
        ("Ordered", "in another order"),
        ("Unreasoned", "keep is False, and the reason ''"),
    ],
)
def test_broken_combiners(name: str, says: str) -> None:
    with pytest.raises(ContractBroken, match=says):
        contracts.combiner(f"broken-parts/{name}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Mean", "of its parts together"),
        ("Explodes", "the loss is inf"),
        ("Constant", "does not depend on"),
    ],
)
def test_broken_objectives(name: str, says: str) -> None:
    with pytest.raises(ContractBroken, match=says):
        contracts.objective(f"broken-parts/{name}")


@pytest.mark.parametrize(
    ("name", "says"),
    [("Vector", r"gave a loss of shape \[64\]"), ("Bare", "gave a Tensor; want LossOutputs with a tensor")],
)
def test_an_objective_whose_loss_is_no_scalar_is_refused(name: str, says: str) -> None:
    with pytest.raises(PluginError, match=f"objective broken-parts/{name} {says}"):
        contracts.objective(f"broken-parts/{name}")


class Silent:
    """A function tool that answers whatever it is asked with nothing."""

    name = "silent"
    schema: Mapping[str, Any] = {
        "type": "function",
        "function": {"name": "silent", "description": "says nothing", "parameters": {"type": "object"}},
    }

    async def execute(self, arguments: Mapping[str, Any]) -> str:
        return ""


async def test_a_tool_that_says_nothing_is_broken() -> None:
    with pytest.raises(ContractBroken, match="want text"):
        await contracts.tool(Silent(), arguments={"question": "a"}, refused={"question": "b"})
    with pytest.raises(ContractBroken, match="it refused"):
        await contracts.experts(FunctionExperts([Silent()]), pool="silent", question="a")
