"""A task: one problem with its grader. Frozen data; sources make it, graders judge it, episodes attempt it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskKind = Literal["QA", "Chat"]
"""The kind decides the episode mode: `QA` rebuilds each prompt from memory slots, `Chat` grows one conversation."""

Split = Literal["train", "heldOut"]
"""Which part of a suite a task belongs to; one that does not say is put there by its text's hash."""


class GraderSpec(BaseModel):
    """Which grader judges the task, and the data it needs (the right answer lives here, never in the prompt)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    """Name in the grader registry: `ReasoningGym`, `ExactMatch`, …"""
    data: dict[str, Any] = Field(default_factory=dict)


class Task(BaseModel):
    """One problem. `id` is unique within a suite and stable over runs of one seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: TaskKind = "QA"
    instruction: str
    context: str | None = None
    tools: tuple[str, ...] | None = None
    """Names of the pools and functions this task may use; None means all."""
    grader: GraderSpec
    source: str
    """Name of the source in the training's YAML."""
    topic: str = ""
    """Dataset or category; reports break results down by it. Never shown to the policy."""
    split: Split = "train"
