"""The evaluation of an incarnation: over its ledger and its wire, while the controller comes up and later beside it."""

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
    """Who evaluates, what is evaluated when, and the outages that training shares with it."""

    evaluator: Evaluator
    evaluations: Evaluations
    deferrals: Deferrals


def evaluation_of(
    assignment: Assignment, journalled: JournalledLedger, wire: Wire, *, controller: asyncio.Future[Controller]
) -> Evaluation:
    """`controller`: looked after while an evaluation goes on, once it can take results."""

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
