"""`orchestra reward`: the golden case from a file, a re-scored run, and every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolorchestra.cli.main import app

GOLDEN: dict[str, Any] = {
    "weights": {"outcome": 1, "cost": 1, "latency": 0, "web": 0},
    "tools": ["web", "code"],
    "episodes": [
        {"outcome": right, "costUSD": usd, "latencySeconds": "1.5", "calls": {"web": 1}}
        for right, usd in ((1, "0.02"), (1, "0.10"), (1, "0.05"), (0, "0.01"))
    ],
}


def score(path: Path, content: object, *options: str) -> Any:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return CliRunner().invoke(app, ["reward", "--components", str(path), *options])


def test_the_golden_case_from_a_file(tmp_path: Path) -> None:
    result = score(tmp_path / "g.json", GOLDEN, "--combiner", "MinMaxDot")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert set(printed) == {"rewards", "advantages"}
    assert [round(r, 3) for r in printed["rewards"]] == [1.889, 1.0, 1.556, 0.0]
    assert sum(printed["advantages"]) == pytest.approx(0)


@pytest.mark.parametrize("combiner", ["GDPO", "WeightedSum"])
def test_every_combiner_ranks_the_cheap_right_one_first(tmp_path: Path, combiner: str) -> None:
    result = score(tmp_path / "g.json", GOLDEN, "--combiner", combiner)
    advantages = json.loads(result.stdout)["advantages"]
    assert sorted(range(4), key=lambda i: -advantages[i]) == [0, 2, 1, 3]


def test_weights_on_the_command_line_win(tmp_path: Path) -> None:
    result = score(tmp_path / "g.json", GOLDEN, "--combiner", "MinMaxDot", "--weights", "outcome=1, cost=0.5")
    assert json.loads(result.stdout)["rewards"][0] == pytest.approx(1 + 0.5 * 8 / 9)


BAD: list[tuple[object, str]] = [
    ("{", "file: invalid JSON"),
    ({**GOLDEN, "episodes": []}, "episodes: needs at least one"),
    ({**GOLDEN, "weights": {"outcome": 1, "wep": 1}}, "weights.wep: neither outcome, cost, latency nor in tools"),
    ({**GOLDEN, "weights": {"cost": -1}}, "weights.cost: input should be greater than or equal to 0"),
    ({**GOLDEN, "weights": {"cost": 3}}, "weights.cost: 3.0 is above 1"),
    ({**GOLDEN, "weights": {"cost": 0}}, "weights: all are 0"),
    ({**GOLDEN, "weights": {"cost": "1e400"}}, "weights.cost: input should be less than or equal to 1000000000"),
    ({**GOLDEN, "episodes": [{"outcome": 1, "costUSD": "1e400"}]}, "episodes[0].costUSD: input should be less than"),
    ({**GOLDEN, "episodes": [{"outcome": 1, "costUSD": "nan"}]}, "episodes[0].costUSD: input should be a finite"),
    ({**GOLDEN, "episodes": [{"outcome": 1, "costUSD": 1, "calls": {"web": 10**40}}]}, "episodes[0].calls.web: "),
    ({**GOLDEN, "epsiodes": 1}, "epsiodes: extra inputs are not permitted"),
    ({**GOLDEN, "tools": ["web", "cost"]}, "tools: 'cost' is a reserved component name"),
    ({**GOLDEN, "episodes": [{"outcome": 2, "costUSD": "1"}]}, "episodes[0].outcome: input should be 0 or 1"),
    ({**GOLDEN, "episodes": [{"outcome": 1, "costUSD": "cheap"}]}, "episodes[0].costUSD: input should be"),
    ({**GOLDEN, "episodes": [{"outcome": 1}]}, "episodes[0].costUSD: field required"),
    ({**GOLDEN, "episodes": [{"outcome": 1, "costUSD": "1", "calls": {"fax": 1}}]}, "episodes[0].calls.fax: not in"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_gets_its_path_and_no_traceback(tmp_path: Path, content: object, message: str) -> None:
    result = score(tmp_path / "bad.json", content)
    assert result.exit_code == 2
    assert f"bad.json: {message}" in result.stderr
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    content = {"weights": {"cost": "x"}, "episodes": [{"outcome": 3, "costUSD": "1"}, {"outcome": 1, "costUSD": -1}]}
    lines = score(tmp_path / "bad.json", content).stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == ["weights.cost", "episodes[0].outcome", "episodes[1].costUSD"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either RUN or --components FILE, not both"),
        (["--components", "nowhere.json"], "nowhere.json: No such file"),
        (["no-such-run"], "runs/no-such-run: no such folder"),
    ],
)
def test_bad_options_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["reward", *options])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--combiner", "Foo", "--combiner: 'Foo' is not one of MinMaxDot, GDPO, WeightedSum"),
        ("--weights", "cost", "--weights: 'cost' is not NAME=NUMBER"),
        ("--weights", "cost=1,cost=2", "--weights: 'cost' is given twice"),
        ("--weights", "cost=nan", "weights.cost: nan"),
        ("--weights", "cost=1e400", "weights.cost: inf"),
        ("--weights", "outcome=0,cost=0", "weights: all are 0"),
    ],
)
def test_bad_values_are_explained(tmp_path: Path, option: str, value: str, message: str) -> None:
    result = score(tmp_path / "g.json", GOLDEN, option, value)
    assert result.exit_code == 2
    assert message in result.stderr
