"""A task: one problem with its grader, as frozen data. Sources make tasks, episodes attempt them, graders grade."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskKind = Literal["QA", "Chat"]
"""Kind of a task, which sets the episode mode: `QA` rebuilds each prompt from memory slots, `Chat` extends one
conversation."""

Split = Literal["train", "heldOut"]
"""Which part of a suite a task belongs to; one that does not say is put there by its text's hash."""


class GraderSpec(BaseModel):
    """The grader of the task, and its data. The right answer is in this data, never in the prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    """Name in the grader registry: `ReasoningGym`, `ExactMatch`, …"""
    data: dict[str, Any] = Field(default_factory=dict)


class Task(BaseModel):
    """One problem. `id` is unique in a suite, and the same in all runs with one seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: TaskKind = "QA"
    instruction: str
    context: str | None = None
    tools: tuple[str, ...] | None = None
    """Names of the pools and functions that the task may use; None: all."""
    grader: GraderSpec
    source: str
    """Name of the source in the training's YAML."""
    topic: str = ""
    """Dataset or category, by which reports group results. Never shown to the policy."""
    split: Split = "train"
