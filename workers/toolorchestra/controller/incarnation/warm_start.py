"""The warm start of a new run: supervised steps before its first version."""

from __future__ import annotations

import time

from toolorchestra.api.conditions import Reason
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.pauses import Paused, Stopped
from toolorchestra.policy.renderer import Renderer
from toolorchestra.trainer.batch import NonFiniteStep
from toolorchestra.trainer.facade import AsyncTrainers

TOLD_EVERY = 10
"""The status is updated every so many steps."""


async def warm_start(assignment: Assignment, trainers: AsyncTrainers, background: Background) -> None:
    """Make the warm start's steps, if the YAML asks for them.

    Raises Stopped between two steps where the end was requested, Paused where a step is not finite.
    """
    warm, settings = assignment.spec.warm_start, assignment.settings
    if warm is None:
        return
    from toolorchestra.controller.warm_traces import warm_batches

    renderer = Renderer.load(assignment.config.model_dir)
    seed = assignment.spec.algorithm.seed
    batches = warm_batches(settings.instances, renderer, steps=warm.steps, batch_size=warm.batch_size, seed=seed)
    for number, batch in enumerate(batches, start=1):
        if background.stopping.is_set():
            raise Stopped
        try:
            metrics = await trainers.supervised_step(batch, settings.warm_step)
        except NonFiniteStep as error:  # every incarnation would get the same batch
            text = f"step {number} of the warm start was not finite ({error}): lower spec.warmStart.learningRate"
            raise Paused(text, reason=Reason.STEPS_NOT_FINITE) from error
        assignment.recorder.write(measurements.of_warm_step)
        assignment.run.metric({"warm_step": number, "loss": metrics.loss, "time": round(time.time(), 3)})
        if number % TOLD_EVERY == 0 or number == warm.steps:
            message = f"warm start: step {number} of {warm.steps}, loss {metrics.loss:.3f}"
            assignment.status.set("Starting", phase="WarmStart", message=message)
    await trainers.anchor()
