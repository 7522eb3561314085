"""Checks the model at the start of an incarnation: a wrong model is refused before engines start and money is spent."""

from __future__ import annotations

import logging

from toolorchestra.api.conditions import Reason
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.pauses import Paused
from toolorchestra.controller.rehearsal import RehearsalError, rehearse
from toolorchestra.controller.settings import SettingsError
from toolorchestra.policy.model_file import ModelFileError
from toolorchestra.policy.renderer import Renderer, RendererError
from toolorchestra.policy.template import TemplateError
from toolorchestra.trainer.model_settings import read_settings, vocabulary_of, why_refused

_log = logging.getLogger(__name__)


def check_model(assignment: Assignment) -> None:
    """Try the model's chat template on the tasks, and log notes about it.

    Raises SettingsError where the model cannot be used, Paused where the trainer would refuse it.
    """
    folder, rollout = assignment.config.model_dir, assignment.spec.rollout
    try:
        settings = read_settings(folder)
        vocabulary = vocabulary_of(settings)
        notes = rehearse(assignment.settings.instances, Renderer.load(folder), vocabulary=vocabulary)
    except (ModelFileError, RehearsalError, RendererError, TemplateError) as error:
        raise SettingsError(f"spec.model.uri: {assignment.spec.model.uri}: {error}") from error
    if why := why_refused(settings, longest=rollout.max_prompt_tokens + rollout.max_response_tokens):
        raise Paused(why, reason=Reason.MODEL_REFUSED)
    for note in notes:
        _log.info("model: %s", note)
        assignment.run.event("template", f"model: {note}")
