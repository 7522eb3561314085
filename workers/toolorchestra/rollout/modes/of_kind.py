"""Chooses the mode for a task's kind."""

from __future__ import annotations

from toolorchestra.policy.renderer import Renderer
from toolorchestra.rollout.modes.chat import ChatMode
from toolorchestra.rollout.modes.mode import Mode
from toolorchestra.rollout.modes.qa import QAMode
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import InstanceView


def mode_of(task: Task, view: InstanceView, *, renderer: Renderer, limits: EpisodeLimits) -> Mode:
    """Return a new mode for an episode that starts."""
    if task.kind == "QA":
        return QAMode(task, view, renderer=renderer, limits=limits)
    return ChatMode(task, view, renderer=renderer, limits=limits)
