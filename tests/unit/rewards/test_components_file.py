"""The file of components as a combiner gets it, and the edges of what it may hold."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from toolorchestra.rewards.component import EpisodeComponents, GroupComponents
from toolorchestra.rewards.components_file import MOST_BYTES, ComponentsFileError, EpisodeEntry, load_components


def written(folder: Path, **content: Any) -> Path:
    path = folder / "group.json"
    whole = {"weights": {"outcome": 1}, "episodes": [{"outcome": 1, "costUSD": "0.5"}]}
    path.write_text(json.dumps(whole | content))
    return path


def test_a_combiner_gets_what_the_file_says(tmp_path: Path) -> None:
    episodes = [
        {"outcome": 1, "costUSD": "0.5", "latencySeconds": 2, "calls": {"web": 3}},
        {"outcome": 0, "costUSD": 1},
    ]
    path = written(tmp_path, weights={"outcome": 1, "web": "0.25"}, tools=["web"], episodes=episodes)
    group = load_components(path).group()
    assert group == GroupComponents(
        episodes=[EpisodeComponents(1, 0.5, 2.0, {"web": 3}), EpisodeComponents(0, 1.0, 0.0, {})],
        weights={"outcome": 1.0, "web": 0.25},
        tools=("web",),
    )
    assert {type(group.episodes[1].cost), type(group.episodes[1].latency), type(group.weights["web"])} == {float}


def test_without_a_list_of_tools_any_name_is_one(tmp_path: Path) -> None:
    path = written(tmp_path, weights={"fax": 1}, episodes=[{"outcome": 1, "costUSD": 0, "calls": {"web": 1}}])
    assert load_components(path).group().tools == ()
    with pytest.raises(ComponentsFileError, match=r"nor in tools \(empty\)"):
        load_components(written(tmp_path, weights={"fax": 1}, tools=[]))


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        ({"episodes": [{"outcome": 1, "costUSD": 10**9, "calls": {"web": 10**9}}]}, None),
        ({"episodes": [{"outcome": 1, "costUSD": 10**9 + 1}]}, "episodes[0].costUSD: input should be less than"),
        ({"episodes": [{"outcome": 1, "costUSD": 1, "calls": {"web": -1}}]}, "episodes[0].calls.web: input should be"),
        ({"episodes": [{"outcome": 1, "costUSD": 1, "latencySeconds": -1}]}, "episodes[0].latencySeconds: input"),
        ({"episodes": [{"outcome": 1, "costUSD": 1, "seconds": 1}]}, "episodes[0].seconds: extra inputs"),
    ],
)
def test_amounts_have_bounds(tmp_path: Path, content: dict[str, Any], mistake: str | None) -> None:
    path = written(tmp_path, **content)
    if mistake is None:
        load_components(path)
        return
    with pytest.raises(ComponentsFileError) as refused:
        load_components(path)
    assert str(refused.value).startswith(f"{path}: {mistake}")


def test_all_names_that_are_no_tools_are_told(tmp_path: Path) -> None:
    episodes = [{"outcome": 1, "costUSD": 1, "calls": {"web": 1, "fax": 1}}]
    path = written(tmp_path, weights={"outcome": 1, "cost": 1, "wep": 1}, tools=["web", "latency"], episodes=episodes)
    with pytest.raises(ComponentsFileError) as refused:
        load_components(path)
    assert str(refused.value).splitlines() == [
        f"{path}: tools: 'latency' is a reserved component name",
        f"{path}: weights.wep: neither outcome, cost, latency nor in tools (web, latency)",
        f"{path}: episodes[0].calls.fax: not in tools (web, latency)",
    ]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "group.json"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ComponentsFileError, match="is larger than 16 MiB"):
        load_components(path)


def test_an_episode_is_made_by_its_fields_and_stays_as_it_is() -> None:
    entry = EpisodeEntry(outcome=1, cost_usd=Decimal(2))
    assert (entry.cost_usd, entry.latency_seconds, entry.calls) == (2, 0, {})
    with pytest.raises(ValidationError, match="frozen"):
        entry.outcome = 0
