"""A run's evaluations: each expert alone once, the policy before RL, now and then during it, and at the end.

What they cost is journalled and counts against the run's cap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolorchestra.policy.version import PolicyVersion
from toolorchestra.train.best import Score, score
from toolorchestra.train.bookkeeper import Bookkeeper
from toolorchestra.train.evaluator import Evaluator, Job, baseline_jobs
from toolorchestra.train.run_dir import RunDir
from toolorchestra.train.settings import EvaluationSuite, Settings
from toolorchestra.train.status import StatusWriter

SUFFIX = ".traces"


@dataclass
class Evaluations:
    """Writes `<suite>/<system>.traces` under the run's folder; what is there already is not done again."""

    evaluator: Evaluator
    run: RunDir
    books: Bookkeeper
    settings: Settings
    status: StatusWriter

    async def baselines(self, pools: Sequence[str]) -> None:
        """Each expert alone on every suite."""
        for job in baseline_jobs(self.settings.suites, pools):
            if not self._path(self.run.evaluations, job.suite, job.name).exists():
                done = await self.evaluator.run(job, into=self.run.evaluations)
                self.run.event("evaluation", f"{job.name} on {job.suite.name}: {done}", suite=job.suite.name)
        self._pay()

    async def policy(self, name: str, *, step: int, once: bool = False, during: bool = False) -> Score | None:
        """The policy of `step` on all suites (`during`: on the first); its score on the first, None if that was not
        run. `once`: only where its file is missing."""
        version = str(PolicyVersion(self.books.ledger.incarnation, step))
        suites = self.settings.suites[:1] if during else self.settings.suites
        into = self.run.evaluations_during if during else self.run.evaluations
        todo = [suite for suite in suites if not (once and self._path(into, suite, name).exists())]
        for suite in todo:
            self.status.set("Running", message=f"evaluating {name} on {suite.name}")
            done = await self.evaluator.run(Job(suite, "policy", name, version=version), into=into)
            self.run.event("evaluation", f"{name} on {suite.name}: {done}", version=version, suite=suite.name)
        self._pay()
        return await self._score(self._path(into, suites[0], name), step=step) if suites[0] in todo else None

    async def _score(self, traces: Path, *, step: int) -> Score | None:
        suite = traces.parent.name
        config = self.settings.rewarding.config
        reached = await asyncio.to_thread(score, self.run.evaluations / suite, traces, config=config)
        if reached is not None:
            self.status.fields["evaluation"] = {"step": step, "suite": suite, **reached.as_dict()}
        return reached

    @staticmethod
    def _path(folder: Path, suite: EvaluationSuite, name: str) -> Path:
        return folder / suite.name / f"{name}{SUFFIX}"

    def _pay(self) -> None:
        spent, self.evaluator.spent = self.evaluator.spent, type(self.evaluator.spent)(0)
        if spent:
            self.books.journal.note("spent", what="evaluation", usd=str(spent))
            self.books.ledger.spend.settle("evaluation", spent)
            self.books.flush()
