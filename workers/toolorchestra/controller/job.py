"""One incarnation put together: bus, Ray, engines, trainers, books, controller, evaluator. Start, train, save, close.

The order of `start` matters twice: engines and trainers load while the baselines are evaluated, and nothing is issued
before the engines serve the weights that the books believe in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from opentelemetry.metrics import Meter
from ray.util.placement_group import PlacementGroup

from toolorchestra.api.conditions import Reason
from toolorchestra.api.load import load
from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import BusError
from toolorchestra.contract.driver_config import DriverConfig, GpuMemory
from toolorchestra.contract.progress import PROGRESS_KEY, State
from toolorchestra.contract.ray import ENGINE_ROLE, TRAINER_ROLE
from toolorchestra.controller.arrival import UNDECODABLE, Undecodable
from toolorchestra.controller.best import Score
from toolorchestra.controller.controller import Controller, ControllerConfig
from toolorchestra.controller.deferral import Deferrals
from toolorchestra.controller.evaluations import Evaluations
from toolorchestra.controller.evaluator import Evaluator
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.monitoring.episode_spans import EpisodeSpans
from toolorchestra.controller.monitoring.gauges import Gauges
from toolorchestra.controller.outbox import empty, reckon
from toolorchestra.controller.pauses import Paused, Stopped
from toolorchestra.controller.ports import Delivery
from toolorchestra.controller.rehearsal import RehearsalError, rehearse
from toolorchestra.controller.settings import Settings, SettingsError, settings_of
from toolorchestra.controller.wire import BusWire
from toolorchestra.engines.actor import EngineStatus
from toolorchestra.engines.arguments import CPU_SEQUENCES, CUDA_SEQUENCES, START_SECONDS, EngineConfig, start_seconds
from toolorchestra.engines.fleet import Engines, engine_actor
from toolorchestra.gpus.placement import Placement, PlacementError, asked
from toolorchestra.gpus.rooms import rooms, smallest_gpu
from toolorchestra.ledger.history import Recovery
from toolorchestra.ledger.journal import Journal, read_frame
from toolorchestra.ledger.journalled import Bookkeeper
from toolorchestra.ledger.resume import load_history
from toolorchestra.policy.model_file import ModelFileError
from toolorchestra.policy.renderer import Renderer, RendererError
from toolorchestra.policy.template import TemplateError
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.runs.status import StatusWriter
from toolorchestra.runs.step_row import sound
from toolorchestra.sizing.division import MemoryRefused, divide
from toolorchestra.tasks.file_uri import path_of
from toolorchestra.telemetry.metrics import Recorder
from toolorchestra.trainer.batch import NonFiniteStep
from toolorchestra.trainer.facade import AsyncTrainers
from toolorchestra.trainer.group import TrainerGroup
from toolorchestra.trainer.model import ModelError
from toolorchestra.trainer.model_settings import read_settings, vocabulary_of, why_refused
from toolorchestra.trainer.trainer import TrainerConfig
from toolorchestra.weights.checkpoint import Checkpoint, CheckpointStore

_log = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0
PROGRESS_SECONDS = 1.0
"""Least time between two tellings."""
NODES_POLL_SECONDS = 1.0
REPORTED = (
    "reward_mean",
    "accuracy",
    "nominal_usd_per_task",
    "service_seconds_per_task",
    "staleness_mean",
    "tokens_per_second",
    "trainer_idle_fraction",
)
"""Of a step's line, what the status shows."""
BATCH = 256
"""Results journalled with one fsync."""


def engine_config(
    config: DriverConfig, spec: OrchestratorTrainingSpec, *, memory: GpuMemory, start_seconds: float
) -> EngineConfig:
    """Of every engine of a training."""
    cuda = config.device == "cuda"
    return EngineConfig(
        model_dir=str(config.model_dir),
        device=config.device,
        dtype="bfloat16" if cuda else "float32",
        head_float32=spec.model.head_precision == "Float32",
        max_model_len=spec.rollout.max_prompt_tokens + spec.rollout.max_response_tokens,
        max_num_seqs=CUDA_SEQUENCES if cuda else CPU_SEQUENCES,
        kv_cache_bytes=memory.kv_cache_bytes,
        gpu_memory_utilization=memory.gpu_memory_utilization,
        eager=memory.eager,
        tensor_parallel_size=spec.ray.engines.tensor_parallel_size,
        threads=config.threads,
        start_seconds=start_seconds,
    )


def trainer_config(config: DriverConfig, spec: OrchestratorTrainingSpec, *, memory: GpuMemory) -> TrainerConfig:
    """Of every trainer of a training."""
    return TrainerConfig(
        model_dir=str(config.model_dir),
        device=config.device,
        threads=config.threads,
        gradient_checkpointing=memory.gradient_checkpointing,
        keep_compute_weights=memory.keep_compute_weights,
        longest=spec.rollout.max_prompt_tokens + spec.rollout.max_response_tokens,
        reference=spec.algorithm.kl.coefficient > 0,
        head_float32=spec.model.head_precision == "Float32",
    )


@dataclass
class Job:
    """The parts of one incarnation, in the order in which they come up."""

    config: DriverConfig
    run: RunDir
    otel: Meter | None = None
    """What metrics are written with; None: to nobody."""
    status: StatusWriter = field(init=False)
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list[asyncio.Task[Any]])
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _controller: Controller | None = None
    _engines: Engines | None = None
    _trainers: AsyncTrainers | None = None
    _bus: NatsBus | None = None
    _reader: asyncio.Task[None] | None = None
    _store: CheckpointStore = field(init=False)
    _checkpointed: int | None = None
    """Step of the newest checkpoint."""
    _ready_for_results: asyncio.Event = field(default_factory=asyncio.Event)
    _placement: Placement | None = None
    """Of the GPUs; None: on CPUs."""
    _memory: GpuMemory = field(default_factory=GpuMemory)
    _places: PlacementGroup | None = None
    """Where trainers and engines share GPUs."""
    _start_seconds: float = START_SECONDS
    """Most for the start of an engine, and of the trainers."""
    _refused: set[str] = field(default_factory=set[str])
    """Why results did not read: each is told once."""

    def __post_init__(self) -> None:
        bundle = load([str(path) for path in self.config.resources])
        self.training = bundle.trainings[0]
        self.spec = self.training.spec
        self.recorder = Recorder(self.otel, training=self.training.metadata.name)
        self.pools = bundle.experts(self.spec.tools)
        fresh = not self.run.journal.exists()  # a run that goes on has graded its tasks' answers already
        self.settings: Settings = settings_of(self.training, self.pools, find=self._find, references=fresh)
        self.status = StatusWriter(self.run, steps=self.spec.algorithm.steps)

    def _find(self, uri: str) -> Path:
        scheme, _, rest = uri.partition("://")
        if scheme == "file":
            return path_of(uri)
        claim, _, path = rest.partition("/")
        if scheme == "pvc" and claim in self.config.volumes:
            return self.config.volumes[claim] / path
        raise SettingsError(f"{uri}: not on this machine; give --volume {claim}=DIR for pvc://, or use file://")

    @property
    def step(self) -> int:
        return self._controller.books.ledger.step if self._controller else 0

    @property
    def controller(self) -> Controller:
        if self._controller is None:
            raise RuntimeError("start() first")
        return self._controller

    def stop(self) -> None:
        """End between two steps (a signal came)."""
        self._stopping.set()
        if self._controller is not None:
            self._controller.stop()

    # ── start ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def nodes(self) -> None:
        """Wait until the cluster has a node for every trainer and engine; how long is its maker's business."""
        wanted = {TRAINER_ROLE: self.spec.ray.trainers.replicas, ENGINE_ROLE: self.spec.ray.engines.replicas}
        while True:
            there: dict[str, float] = await asyncio.to_thread(ray.cluster_resources)
            missing = [
                f"{int(there.get(role, 0))} of {n} {role}s" for role, n in wanted.items() if there.get(role, 0) < n
            ]
            if not missing:
                return
            self.status.set("Starting", message=f"waiting for nodes: {', '.join(missing)}")
            await self._unless_stopped(asyncio.sleep(NODES_POLL_SECONDS))

    async def start(self) -> None:
        """Bring everything up; returns when training can go on."""
        self.status.set(
            "Starting", message="starting engines and trainers", uid=self.config.uid, attempt=self.config.attempt
        )
        self._rehearse()
        store = self._store = CheckpointStore(self.run.checkpoints, keep=self.spec.checkpoint.keep)
        checkpoint = await asyncio.to_thread(store.latest)
        self._checkpointed = checkpoint.step if checkpoint else None
        self._bus = await NatsBus.connect(self.config.nats_url, uid=self.config.uid, name="controller")
        self._wire = BusWire(self._bus, recorder=self.recorder, keep=self._keep_undecodable)
        self.recorder.write(measurements.beginning)
        self._spawn(self._tell_progress())
        await self._divide_gpus()
        self._start_engines()
        recovery = self._open_books(checkpoint)
        await reckon(self._bus, self._books, patience=self._issue_timeout)
        self._reader = self._spawn(self._read_results())
        self._watch()
        names = [pool.metadata.name for pool in self.pools]
        alone = asyncio.create_task(self._evaluations.baselines(names)) if self.spec.evaluation.baselines else None
        await self._start_trainers(store, checkpoint)
        self._build_controller()
        if checkpoint is None:
            await self._warm_start()
        await self._unless_stopped(self.controller.first_version())
        await self._restore(recovery)
        await self._checkpoint()
        if alone is not None:
            await self._unless_stopped(alone)
        await self._evaluate("initialPolicy", once=True)

    def _rehearse(self) -> None:
        """Try the model's chat template on the tasks, and say what was found; SettingsError where it cannot be used.

        A model that the trainer would refuse by name is refused here, before engines start and baselines are paid for.
        """
        folder, rollout = self.config.model_dir, self.spec.rollout
        try:
            settings = read_settings(folder)
            vocabulary = vocabulary_of(settings)
            notes = rehearse(self.settings.world, Renderer.load(folder), vocabulary=vocabulary)
        except (ModelFileError, RehearsalError, RendererError, TemplateError) as error:
            raise SettingsError(f"spec.model.uri: {self.spec.model.uri}: {error}") from error
        if why := why_refused(settings, longest=rollout.max_prompt_tokens + rollout.max_response_tokens):
            raise Paused(why, reason=Reason.MODEL_REFUSED)
        for note in notes:
            _log.info("model: %s", note)
            self.run.event("template", f"model: {note}")

    def _watch(self) -> None:
        """Gauges, where somebody sees them."""
        if not self.recorder.on or self._bus is None or self._engines is None:
            return
        engines = self._engines
        gauges = Gauges(
            recorder=self.recorder,
            ledger=lambda: self._books.ledger,
            pools=[pool.metadata.name for pool in self.pools],
            engines=lambda: [status.state for status in engines.statuses],
            depth=self._bus.depth,
        )
        self._spawn(gauges.watch())
        self._spawn(gauges.watch_bus())

    async def _divide_gpus(self) -> None:
        """Which GPUs, and how much of their memory, for whom. SettingsError: it cannot fit."""
        weights = sum(file.stat().st_size for file in self.config.model_dir.glob("*.safetensors"))
        self._start_seconds = self.spec.ray.engines.start_timeout_seconds or start_seconds(weights)
        if self.config.device == "cpu":
            return
        try:
            self._placement = asked(self.spec.ray, shared=self.config.shared)
            if self.config.memory is not None:
                self._memory = self.config.memory
            else:
                gpu = await self._unless_stopped(asyncio.to_thread(smallest_gpu))
                if gpu is None:
                    raise SettingsError(
                        "no node of the cluster sees a GPU, though one is asked for: is its driver there?"
                    )
                divided = divide(self.spec, self.config.model_dir, self._placement, gpu_bytes=gpu.size)
                self._memory = divided.memory
                self.run.event("memory", "\n".join((str(gpu), *divided.lines)))
        except (PlacementError, MemoryRefused) as error:
            raise SettingsError(str(error)) from error
        if self._placement.shared:
            self._places = await asyncio.to_thread(rooms, self._placement.gpus, by_role=self.config.cluster)

    def _start_engines(self) -> None:
        engines = self.spec.ray.engines
        config = engine_config(self.config, self.spec, memory=self._memory, start_seconds=self._start_seconds)
        actor = partial(
            engine_actor,
            config=config,
            logs=self.run.logs,
            gpus=self._placement.gpus_per_engine if self._placement else 0.0,
            by_role=self.config.cluster,
            places=self._places,
        )
        self._engines = Engines(
            engines.replicas,
            actor=actor,
            put=self._wire.put,
            on_change=self._engine_changed,
            on_wait=self._engine_awaited,
        )
        self._spawn(self._engines.watch())

    def _engine_changed(self, status: EngineStatus) -> None:
        known = dict(self.status.fields.get("engines", {}))
        known[status.name] = {"state": status.state, "version": status.version, "restarts": status.restarts}
        self.status.fields["engines"] = known | {status.name: known[status.name] | {"serves": status.serves}}
        if status.state != "ready" or status.version is None:
            lost = status.last_error if status.state != "ready" else ""
            what = lost.splitlines()[0] if lost else ""
            self.run.event("engine", f"{status.name} is {status.state} {what}".strip(), error=status.last_error)

    def _engine_awaited(self, why: str) -> None:
        """No engine serves the newest weights, or one does again (no words)."""
        state: State = self.status.latest.get("state", "Starting")
        if state in ("Starting", "Running"):  # what a run that ended said last stands
            self.status.set(state, phase=self.status.latest.get("phase"), message=why)

    def _open_books(self, checkpoint: Checkpoint | None) -> Recovery:
        step = checkpoint.step if checkpoint else 0
        history = load_history(self.run.journal, step=step, job=checkpoint.job if checkpoint else {})
        journal = Journal(self.run.journal, end=history.end)
        self._books, recovery = Bookkeeper.open(
            config=self.settings.ledger,
            uid=self.config.uid,
            journal=journal,
            history=history,
            step=step,
            cap=self.settings.cap,
            allowance=self.settings.allowance,
        )
        self._books.flush()
        self._books.ledger.steps = self.spec.algorithm.steps
        self.status.incarnation = recovery.incarnation
        self.status.fields["step"] = step
        self.run.event("incarnation", f"incarnation {recovery.incarnation} starts at step {step}", step=step)
        self._deferrals = Deferrals()
        self._evaluator = Evaluator(
            wire=self._wire,
            world=self.settings.world,
            uid=self.config.uid,
            books=self._books,
            deferrals=self._deferrals,
            issue_timeout=self._issue_timeout,
            recorder=self.recorder,
            meanwhile=self._look_after,
        )
        self._evaluations = Evaluations(self._evaluator, self.run, self._books, self.settings, self.status)
        return recovery

    @property
    def _issue_timeout(self) -> float:
        """Longer than a sending can take, with all its deliveries."""
        return 3.0 * self.spec.rollout.episode_timeout_seconds + 120.0

    async def withdraw(self) -> None:
        """The run ends for now: nothing that is queued is to be played and paid for. What the bus does not tell in
        time, the next incarnation asks."""
        if self._bus is None or self._reader is None:
            return
        self._reader.cancel()  # every result that it takes makes room for new orders
        await asyncio.wait({self._reader})
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await empty(self._bus, self._books, patience=self._issue_timeout)
        except (BusError, TimeoutError) as error:
            _log.warning("the queue was not emptied: %s", error or type(error).__name__)

    async def _look_after(self) -> None:
        """While an evaluation goes on."""
        if self._controller is not None and self._ready_for_results.is_set():
            await self._controller.look_after()

    async def _start_trainers(self, store: CheckpointStore, checkpoint: Checkpoint | None) -> None:
        config = trainer_config(self.config, self.spec, memory=self._memory)
        try:
            group = await asyncio.to_thread(
                TrainerGroup,
                config,
                size=self.spec.ray.trainers.replicas,
                gpus_per_trainer=self._placement.gpus_per_trainer if self._placement else 0.0,
                by_role=self.config.cluster,
                places=self._places,
                ready_timeout=self._start_seconds,
            )
        except ModelError as error:
            raise Paused(str(error), reason=Reason.MODEL_REFUSED) from error
        self._trainers = AsyncTrainers(
            group, store, engine_dtype="bfloat16" if self.config.device == "cuda" else "float32"
        )
        if checkpoint is not None:
            await self._trainers.load(checkpoint.path)
        else:
            await self._trainers.set_rng(self.spec.algorithm.seed)

    def _build_controller(self) -> None:
        assert self._trainers is not None
        assert self._engines is not None
        algorithm = self.spec.algorithm
        self._controller = Controller(
            config=ControllerConfig(
                steps=algorithm.steps,
                step=self.settings.step,
                schedule=self.settings.schedule,
                checkpoint_every=self.spec.checkpoint.every_steps,
                issue_timeout=self._issue_timeout,
            ),
            run=self.run,
            world=self.settings.world,
            books=self._books,
            rewarding=self.settings.rewarding,
            wire=self._wire,
            trainers=self._trainers,
            engines=self._engines,
            deferrals=self._deferrals,
            spans=EpisodeSpans(self.training.metadata.name),
            recorder=self.recorder,
            snapshots=self.config.snapshots,
        )
        if self._stopping.is_set():
            self._controller.stop()

    async def _warm_start(self) -> None:
        warm = self.spec.warm_start
        if warm is None or self._trainers is None:
            return
        from toolorchestra.controller.warm_traces import warm_batches

        renderer = Renderer.load(self.config.model_dir)
        seed = self.spec.algorithm.seed
        batches = warm_batches(self.settings.world, renderer, steps=warm.steps, batch_size=warm.batch_size, seed=seed)
        for number, batch in enumerate(batches, start=1):
            if self._stopping.is_set():
                raise Stopped
            try:
                metrics = await self._trainers.supervised_step(batch, self.settings.warm_step)
            except NonFiniteStep as error:  # the same batch comes in every life
                text = f"step {number} of the warm start was not finite ({error}): lower spec.warmStart.learningRate"
                raise Paused(text, reason=Reason.STEPS_NOT_FINITE) from error
            self.recorder.write(measurements.of_warm_step)
            self.run.metric({"warm_step": number, "loss": metrics.loss, "time": round(time.time(), 3)})
            if number % 10 == 0 or number == warm.steps:
                message = f"warm start: step {number} of {warm.steps}, loss {metrics.loss:.3f}"
                self.status.set("Starting", phase="WarmStart", message=message)
        await self._trainers.anchor()

    async def _restore(self, recovery: Recovery) -> None:
        for accepted in (a for results in recovery.restore.values() for a in results):
            self.controller.traces[accepted.issue] = decode_trace(read_frame(self.run.journal, accepted.at).body)
        self._ready_for_results.set()
        await self.controller.recover(self._books.restore(recovery, now=time.time()))

    # ── running ────────────────────────────────────────────────────────────────────────────────────────────────

    async def train(self) -> None:
        """Steps until the goal; then the last evaluation, checkpoint and export."""
        algorithm, every = self.spec.algorithm, self.spec.evaluation.every_steps
        while self.step < algorithm.steps:
            row = await self._supervised(self.controller.step())
            self.run.metric(row)
            self._report(row)
            self.controller.check()
            if self.step % self.spec.checkpoint.every_steps == 0 or self.step == algorithm.steps:
                await self._checkpoint()
            if self.step % every == 0 and self.step < algorithm.steps:
                await self._evaluate(f"policy-{self.step:06d}", during=True)
        await self._evaluate("policy")
        await self.save()
        self.recorder.write(measurements.of_wasted, self.controller.traces.values(), reason="steps_done")
        self._books.finish()
        self._books.flush()

    def _report(self, row: dict[str, Any]) -> None:
        found = sound(row) or {}
        metrics = {"tokens_per_second": 0.0} | {key: found[key] for key in REPORTED if key in found}
        broken = row["groups_dropped"].get("non_finite", 0)
        self.status.set(
            "Running",
            message=f"{broken} groups were set aside: their step was not finite" if broken else "",
            step=self.step,
            policyVersion=row["version"],
            metrics=metrics,
            **self._money(),
            experts=self.controller.service_times.summary(),
            bus={"kind": "JetStream", "sent": self._wire.sent, "received": self._wire.received},
        )

    def _money(self) -> dict[str, Any]:
        """What is spent, and what may still be billed at most."""
        spend = self._books.ledger.spend
        return {"spentUSD": str(spend.settled), "reservedUSD": str(spend.held)}

    async def _tell_progress(self) -> None:
        """The status into the training's bucket, where the operator reads it; the newest one, not every one."""
        while True:
            await self.status.changed.wait()
            await self._put_progress()
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _put_progress(self) -> None:
        self.status.changed.clear()
        try:
            await self._wire.put(PROGRESS_KEY, json.dumps(self.status.latest).encode())
        except BusError as error:  # the run goes on; the next change is told again
            _log.warning("progress was not told: %s", error)

    async def finish(self, state: State, *, message: str) -> None:
        """The last status, told before the bus is closed."""
        if self._reader is not None:  # the books are open; the last step's figures lack what followed it
            self.status.fields |= self._money()
        self.status.set(state, message=message)
        self.run.event("ended", message or state, state=state, step=self.step)
        if self._bus is not None:
            await asyncio.wait({asyncio.create_task(self._put_progress())}, timeout=CLOSE_SECONDS)

    async def save(self) -> None:
        """Checkpoint and export what there is; nothing where training never began."""
        if self._controller is None or self._trainers is None or not self._ready_for_results.is_set():
            return
        await self._checkpoint()
        await self._trainers.export(self.run.export / "last")

    async def _evaluate(self, name: str, *, once: bool = False, during: bool = False) -> None:
        """Evaluate the policy as it is; export its weights and protect their checkpoint if none did better."""
        assert self._trainers is not None
        work = self._evaluations.policy(name, step=self.step, once=once, during=during)
        reached: Score | None = await self._unless_stopped(work)
        before = self._store.best_score()
        if reached is not None and (before is None or reached > Score.parse(before)):
            await self._checkpoint()
            await self._trainers.export(self.run.export / "best")
            await asyncio.to_thread(self._store.mark_best, self.step, score=reached.as_dict())

    async def _checkpoint(self) -> None:
        """Save this step, unless it is saved."""
        if self._checkpointed != self.step:
            saved = await self.controller.checkpoint()
            self._checkpointed = self.step
            where = {"step": saved.step, "path": str(saved.path), "digest": saved.digest}
            self.status.fields["checkpoint"] = where | {"time": round(time.time())}

    async def close(self, *, keep_engines: bool) -> None:
        """End what this incarnation started. Engines stay warm for the next one after a failure."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
        if self._controller is not None:
            self._controller.spans.close()
        if self._trainers is not None:
            self._trainers.close()
        if self._engines is not None and not keep_engines:
            await self._engines.stop()
        if self._bus is not None:
            # Bounded: what a broken broker keeps from closing must not keep this process from being replaced.
            await asyncio.wait({asyncio.create_task(self._bus.close())}, timeout=CLOSE_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    async def _supervised(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await work, but fail with the first background task that does."""
        main = asyncio.create_task(work)
        await asyncio.wait({main, *self._tasks_running()}, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done() and (error := task.exception()) is not None:
                main.cancel()
                raise error
        return await main

    def _tasks_running(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._tasks if not task.done()]

    async def _unless_stopped(self, work: Any) -> Any:
        """Await work, or raise Stopped as soon as the run is asked to end."""
        main = asyncio.ensure_future(work)
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({main, stop, *self._tasks_running()}, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error
        if not main.done() and stop.done():
            main.cancel()
            raise Stopped
        stop.cancel()
        return await main

    # ── results and evaluations ────────────────────────────────────────────────────────────────────────────────

    async def _read_results(self) -> None:
        queue: asyncio.Queue[Delivery] = asyncio.Queue()

        async def pull() -> None:
            async for delivery in self._wire.deliveries():
                queue.put_nowait(delivery)

        puller = asyncio.create_task(pull())
        self._tasks.append(puller)
        while True:
            batch = [await queue.get()]
            while not queue.empty() and len(batch) < BATCH:
                batch.append(queue.get_nowait())
            evaluation = [d for d in batch if self._evaluator.owns(d.arrival.issue)]
            if evaluation:
                await self._evaluator.take(evaluation)
            training = [d for d in batch if not self._evaluator.owns(d.arrival.issue)]
            if training:
                await self._ready_for_results.wait()
                await self.controller.take(training)

    async def _keep_undecodable(self, refused: Undecodable) -> None:
        """A result that does not read, into the journal and, the first of its kind, into the events."""
        self._books.keep_undecodable(refused.id, why=refused.why, raw=refused.raw)
        await asyncio.to_thread(self._books.flush)
        if refused.why not in self._refused:
            self._refused.add(refused.why)
            message = f"a result does not read ({refused.why}); it lies in the journal, its episode is sent again"
            self.run.event(UNDECODABLE, message, id=refused.id, bytes=len(refused.raw))
