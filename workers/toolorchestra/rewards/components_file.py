"""The JSON file for `orchestra reward --components`: the raw components and weights of one group."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolorchestra.api.regular_file import FileRefused, read_text
from toolorchestra.rewards.columns import RESERVED
from toolorchestra.rewards.component import EpisodeComponents, GroupComponents

MOST = 10**9
"""Largest dollars, seconds, calls and weight, as in the YAML. A larger number is a mistake."""

MOST_BYTES = 16 << 20

Amount = Annotated[Decimal, Field(ge=0, le=MOST, allow_inf_nan=False)]
Calls = Annotated[int, Field(ge=0, le=MOST)]


class ComponentsFileError(ValueError):
    """The file cannot be scored. The message has one line per mistake, each with its path."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class EpisodeEntry(_Strict):
    """One sibling. `costUSD` is in nominal US dollars, `latencySeconds` in seconds; decimals are strings or numbers."""

    outcome: Literal[0, 1]
    cost_usd: Amount = Field(alias="costUSD")
    latency_seconds: Amount = Field(default=Decimal(0), alias="latencySeconds")
    calls: dict[str, Calls] = Field(default_factory=dict)


class ComponentsFile(_Strict):
    """A group: weights by component and tool, the instance's tools, the scored siblings."""

    weights: dict[str, Amount]
    tools: tuple[str, ...] | None = None
    """If absent: all names in the weights and calls are allowed."""
    episodes: tuple[EpisodeEntry, ...]

    def group(self) -> GroupComponents:
        """Return the group as the input of a combiner."""
        return GroupComponents(
            episodes=[
                EpisodeComponents(
                    outcome=e.outcome, cost=float(e.cost_usd), latency=float(e.latency_seconds), calls=e.calls
                )
                for e in self.episodes
            ],
            weights={name: float(w) for name, w in self.weights.items()},
            tools=self.tools or (),
        )


def load_components(path: Path) -> ComponentsFile:
    """Read and check a file. ComponentsFileError names every mistake."""
    try:
        text = read_text(path, most=MOST_BYTES)
    except FileRefused as error:
        raise ComponentsFileError(f"{path}: {error}") from error
    try:
        loaded = ComponentsFile.model_validate_json(text)
    except ValidationError as error:
        lines = [f"{path}: {_where(e['loc'])}: {_what(e['msg'])}" for e in error.errors()]
        raise ComponentsFileError("\n".join(lines)) from error
    mistakes = [] if loaded.episodes else ["episodes: needs at least one"]
    mistakes += _unknown_tools(loaded.tools, loaded) if loaded.tools is not None else []
    if mistakes:
        raise ComponentsFileError("\n".join(f"{path}: {line}" for line in mistakes))
    return loaded


def _where(location: tuple[int | str, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return path.lstrip(".") or "file"


def _what(message: str) -> str:
    return message[:1].lower() + message[1:]


def _unknown_tools(tools: tuple[str, ...], file: ComponentsFile) -> list[str]:
    """Return a line per name that is no tool. A misspelt tool would silently have no effect."""
    known = f"tools ({', '.join(tools) or 'empty'})"
    lines = [f"tools: {name!r} is a reserved component name" for name in tools if name in RESERVED]
    lines += [
        f"weights.{name}: neither {', '.join(RESERVED)} nor in {known}"
        for name in file.weights
        if name not in (*RESERVED, *tools)
    ]
    lines += [
        f"episodes[{i}].calls.{name}: not in {known}"
        for i, episode in enumerate(file.episodes)
        for name in episode.calls
        if name not in tools
    ]
    return lines
