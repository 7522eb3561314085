"""The evaluations of a run: each expert alone once; the policy before RL, at intervals during it, and at the end.

Their cost is journalled with each result and counts against the run's cap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolorchestra.controller.best import Score, score
from toolorchestra.controller.evaluator import EvaluationRun, Evaluator, baseline_jobs
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.settings import Settings
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.runs.status import StatusWriter


@dataclass
class Evaluations:
    """Writes traces by suite and system under the run's folder; a baseline whose file exists is not run again."""

    evaluator: Evaluator
    run: RunDir
    journalled: JournalledLedger
    settings: Settings
    status: StatusWriter

    async def baselines(self, pools: Sequence[str]) -> None:
        """Evaluate each expert alone on every suite."""
        for job in baseline_jobs(self.settings.suites, pools):
            if not job.file(self.run.evaluations).exists():
                done = await self.evaluator.run(job, into=self.run.evaluations)
                self.run.event("evaluation", f"{job.name} on {job.suite.name}: {done}", suite=job.suite.name)

    async def policy(self, name: str, *, step: int, once: bool = False, during: bool = False) -> Score | None:
        """Evaluate the policy of `step` on all suites; return its score on the first, None if that was not run.

        `during`: on the first suite only. `once`: only where the file is missing.
        """
        version = str(PolicyVersion(self.journalled.ledger.incarnation, step))
        suites = self.settings.suites[:1] if during else self.settings.suites
        into = self.run.evaluations_during if during else self.run.evaluations
        jobs = [EvaluationRun(suite, "policy", name, version=version) for suite in suites]
        todo = [job for job in jobs if not (once and job.file(into).exists())]
        for job in todo:
            what = f"{name} on {job.suite.name}"
            self.status.set("Running", phase="Evaluating", message=f"evaluating {what}")
            done = await self.evaluator.run(job, into=into)
            self.run.event("evaluation", f"{what}: {done}", version=version, suite=job.suite.name)
        return await self._score(jobs[0].file(into), step=step) if jobs[0] in todo else None

    async def _score(self, traces: Path, *, step: int) -> Score | None:
        suite = traces.parent.name
        config = self.settings.rewarding.config
        reached = await asyncio.to_thread(score, self.run.evaluations / suite, traces, config=config)
        if reached is not None:
            figures = {"step": step, **reached.as_dict()}
            self.status.fields["evaluation"] = {"suite": suite, **figures}
            self.evaluator.recorder.write(measurements.of_evaluation, suite, figures)
        return reached
