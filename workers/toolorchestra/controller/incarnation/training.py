"""The training loop of an incarnation: steps until the goal, with checkpoints and evaluations between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolorchestra.controller.controller import Controller
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.controller.incarnation.milestones import Milestones
from toolorchestra.controller.incarnation.recovered import RecoveredLedger
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.wire import BusWire
from toolorchestra.runs.step_row import sound

REPORTED = (
    "reward_mean",
    "accuracy",
    "nominal_usd_per_task",
    "service_seconds_per_task",
    "staleness_mean",
    "tokens_per_second",
    "trainer_idle_fraction",
)
"""Fields of a step's line that the status shows."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A started incarnation, ready to train."""

    assignment: Assignment
    background: Background
    journalled: RecoveredLedger
    wire: BusWire
    controller: Controller
    milestones: Milestones

    async def run(self) -> None:
        """Make steps until the goal; then the last evaluation, checkpoint and export."""
        spec, keep = self.assignment.spec, self.milestones
        steps, every = spec.algorithm.steps, spec.evaluation.every_steps
        while keep.step < steps:
            row = await self.background.supervised(self.controller.step())
            self.assignment.run.metric(row)
            self._report(row)
            self.controller.check()
            if keep.step % spec.checkpoint.every_steps == 0 or keep.step == steps:
                await keep.checkpoint()
            if keep.step % every == 0 and keep.step < steps:
                await keep.evaluate(f"policy-{keep.step:06d}", during=True)
        await keep.evaluate("policy")
        await keep.save()
        unused = self.controller.traces.values()
        self.assignment.recorder.write(measurements.of_wasted, unused, reason="steps_done")
        self.journalled.journalled.finish()
        self.journalled.journalled.flush()

    def _report(self, row: dict[str, Any]) -> None:
        found = sound(row) or {}
        metrics = {"tokens_per_second": 0.0} | {key: found[key] for key in REPORTED if key in found}
        broken = row["groups_dropped"].get("non_finite", 0)
        self.assignment.status.set(
            "Running",
            message=f"{broken} groups were set aside because their step was not finite" if broken else "",
            step=self.milestones.step,
            policyVersion=row["version"],
            metrics=metrics,
            **self.journalled.money(),
            experts=self.controller.service_times.summary(),
            bus={"kind": "JetStream", "sent": self.wire.sent, "received": self.wire.received},
        )
