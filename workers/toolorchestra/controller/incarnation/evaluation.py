"""The evaluation parts of an incarnation; they work during the controller's start and later beside it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from toolorchestra.controller.controller import Controller
from toolorchestra.controller.deferral import Deferrals
from toolorchestra.controller.evaluations import Evaluations
from toolorchestra.controller.evaluator import Evaluator
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.ports import Wire
from toolorchestra.ledger.journalled import JournalledLedger


@dataclass(frozen=True)
class Evaluation:
    """The evaluator, the run's evaluations, and the outages, which training and evaluation share."""

    evaluator: Evaluator
    evaluations: Evaluations
    deferrals: Deferrals


def evaluation_of(
    assignment: Assignment, journalled: JournalledLedger, wire: Wire, *, controller: asyncio.Future[Controller]
) -> Evaluation:
    """Build the evaluation parts. `controller`: once it is set, its `look_after` also runs during evaluations."""

    async def meanwhile() -> None:
        if controller.done():
            await controller.result().look_after()

    deferrals = Deferrals()
    evaluator = Evaluator(
        wire=wire,
        instances=assignment.settings.instances,
        uid=assignment.config.uid,
        journalled=journalled,
        deferrals=deferrals,
        dispatch_timeout=assignment.dispatch_timeout,
        recorder=assignment.recorder,
        meanwhile=meanwhile,
    )
    evaluations = Evaluations(evaluator, assignment.run, journalled, assignment.settings, assignment.status)
    return Evaluation(evaluator, evaluations, deferrals)
