"""One incarnation, from its start to its end.

The order of `start` matters for two reasons: engines and trainers load while the baselines are evaluated, and nothing
is dispatched before the engines serve the weights of the ledger's step. If the start fails at any point, `Closing`
knows what to close and `Ending` knows what remains to be done.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial

from toolorchestra.contract.progress import State
from toolorchestra.controller.controller import Controller, ControllerConfig
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.background import CLOSE_SECONDS, Background
from toolorchestra.controller.incarnation.closing import Closing, bounded
from toolorchestra.controller.incarnation.ending import Ending
from toolorchestra.controller.incarnation.hardware import hardware_of, nodes
from toolorchestra.controller.incarnation.makers import Makers
from toolorchestra.controller.incarnation.milestones import Milestones
from toolorchestra.controller.incarnation.progress import Progress
from toolorchestra.controller.incarnation.recovered import withdraw
from toolorchestra.controller.incarnation.results import Results, UndecodableResults
from toolorchestra.controller.incarnation.stages import Opened, Reading, Serving, Trainable
from toolorchestra.controller.incarnation.trainers import restore
from toolorchestra.controller.incarnation.training import Training
from toolorchestra.controller.incarnation.warm_start import warm_start
from toolorchestra.controller.incarnation.watch import start_watch
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.monitoring.episode_spans import EpisodeSpans
from toolorchestra.controller.outbox import reckon
from toolorchestra.controller.wire import BusWire
from toolorchestra.ledger.journal import read_frame
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.weights.checkpoint import CheckpointStore


@dataclass
class Incarnation:
    """One incarnation of a training."""

    assignment: Assignment
    makers: Makers = field(default_factory=Makers)
    background: Background = field(default_factory=Background)
    closing: Closing = field(default_factory=Closing)
    ending: Ending = field(default_factory=Ending)

    def stop(self) -> None:
        """Request the end between two steps (after a signal)."""
        self.background.stop()

    async def start(self) -> Training:
        """Start everything; return when training can begin or continue."""
        task = self.assignment
        if task.config.cluster:
            await nodes(task, self.background)
        opened = await self._open()
        serving = await self._serve(opened)
        reading = await self._read(opened)
        start_watch(
            task,
            journalled=reading.journalled.journalled,
            engines=serving.engines,
            bus=opened.bus,
            background=self.background,
        )
        evaluations = reading.evaluation.evaluations
        names = [pool.metadata.name for pool in task.pools]
        alone = asyncio.create_task(evaluations.baselines(names)) if task.spec.evaluation.baselines else None
        trainable = await self._trainable(opened, serving, reading)
        milestones = Milestones(
            run=task.run,
            status=task.status,
            controller=trainable.controller,
            trainers=trainable.trainers,
            store=opened.store,
            evaluations=evaluations,
            background=self.background,
            saved=opened.checkpoint.step if opened.checkpoint else None,
        )
        if opened.checkpoint is None:
            await warm_start(task, trainable.trainers, self.background)
        await self.background.unless_stopped(trainable.controller.first_version())
        await self._go_on(reading, trainable.controller, milestones)
        await milestones.checkpoint()
        if alone is not None:
            await self.background.unless_stopped(alone)
        await milestones.evaluate("initialPolicy", once=True)
        return Training(
            assignment=task,
            background=self.background,
            journalled=reading.journalled,
            wire=reading.wire,
            controller=trainable.controller,
            milestones=milestones,
        )

    # ── stages ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _open(self) -> Opened:
        task, config, status = self.assignment, self.assignment.config, self.assignment.status
        status.set("Starting", message="starting engines and trainers", uid=config.uid, attempt=config.attempt)
        self.makers.check_model(task)
        store = CheckpointStore(task.run.checkpoints, keep=task.spec.checkpoint.keep)
        checkpoint = await asyncio.to_thread(store.latest)
        bus = await self.makers.connect(config.nats_url, uid=config.uid, name="controller")
        # With a time limit: a broken broker must not keep this process from ending.
        self.closing.add(lambda: bounded(bus.close(), seconds=CLOSE_SECONDS))
        progress = Progress(status, bus)
        self.ending = replace(self.ending, tell=progress.tell)
        task.recorder.write(measurements.beginning)
        self.background.spawn(progress.follow())
        return Opened(bus=bus, store=store, checkpoint=checkpoint)

    async def _serve(self, opened: Opened) -> Serving:
        hardware = await hardware_of(self.assignment, self.background)
        engines = self.makers.start_engines(self.assignment, hardware, opened.bus)
        self.closing.add(engines.stop, stays_warm=True)
        self.background.spawn(engines.watch())
        return Serving(hardware=hardware, engines=engines)

    async def _read(self, opened: Opened) -> Reading:
        task = self.assignment
        journalled = self.makers.open_ledger(task, opened.checkpoint)
        keep = UndecodableResults(journalled.journalled, task.run).keep
        wire = BusWire(opened.bus, recorder=task.recorder, keep=keep)
        ready: asyncio.Future[Controller] = asyncio.get_running_loop().create_future()
        evaluation = self.makers.evaluation_of(task, journalled.journalled, wire, controller=ready)
        await reckon(opened.bus, journalled.journalled, patience=task.dispatch_timeout)
        results = Results(wire, evaluation.evaluator, ready)
        reader = self.background.spawn(results.read(self.background))
        self.ending = replace(
            self.ending,
            money=journalled.money,
            withdraw=partial(
                withdraw, opened.bus, journalled.journalled, reader=reader, patience=task.dispatch_timeout
            ),
        )
        return Reading(journalled=journalled, wire=wire, evaluation=evaluation, ready=ready)

    async def _trainable(self, opened: Opened, serving: Serving, reading: Reading) -> Trainable:
        task = self.assignment
        trainers = await self.makers.start_trainers(task, serving.hardware, opened.store)
        self.closing.add(trainers.close)
        await restore(trainers, opened.checkpoint, seed=task.spec.algorithm.seed)
        algorithm, settings, journalled = task.spec.algorithm, task.settings, reading.journalled.journalled
        controller = Controller(
            config=ControllerConfig(
                steps=algorithm.steps,
                step=settings.step,
                schedule=settings.schedule,
                checkpoint_every=task.spec.checkpoint.every_steps,
                dispatch_timeout=task.dispatch_timeout,
            ),
            run=task.run,
            instances=settings.instances,
            journalled=journalled,
            rewarding=settings.rewarding,
            wire=reading.wire,
            trainers=trainers,
            engines=serving.engines,
            deferrals=reading.evaluation.deferrals,
            spans=EpisodeSpans(task.training.metadata.name),
            recorder=task.recorder,
            snapshots=task.config.snapshots,
        )
        self.closing.add(controller.spans.close)
        self.background.on_stop(controller.stop)
        self.ending = replace(self.ending, step=lambda: journalled.ledger.step)
        return Trainable(trainers=trainers, controller=controller)

    async def _go_on(self, reading: Reading, controller: Controller, milestones: Milestones) -> None:
        """Continue from earlier incarnations: restore their results and their open dispatches."""
        recovery, journalled = reading.journalled.recovery, reading.journalled.journalled
        for accepted in (a for results in recovery.restore.values() for a in results):
            body = read_frame(self.assignment.run.journal, accepted.at).body
            controller.traces[accepted.issue] = decode_trace(body)
        reading.ready.set_result(controller)
        self.ending = replace(self.ending, save=milestones.save)
        await controller.recover(journalled.restore(recovery, now=time.time()))

    # ── end ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def finish(self, state: State, *, message: str) -> None:
        """Write and publish the last status; call it before the bus is closed."""
        status = self.assignment.status
        status.fields |= self.ending.money()  # the last step's numbers lack later costs
        status.set(state, message=message)
        self.assignment.run.event("ended", message or state, state=state, step=self.ending.step())
        await bounded(self.ending.tell(), seconds=CLOSE_SECONDS)

    async def close(self, *, keep_engines: bool) -> None:
        """Close what this incarnation started. After a failure, engines keep running for the next incarnation."""
        await self.background.end()
        await self.closing.close(keep_warm=keep_engines)
