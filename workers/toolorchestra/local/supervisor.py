"""The supervisor of a run on one machine: starts its processes, restarts those that die, and ends them all.

nats-server, simulator, workers and Ray keep running when a controller dies. The controller is started again as a new
incarnation, at most `backoffLimit` times. Every process has a parent-death signal, so the kernel ends all of them when
the supervisor is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import nats

from toolorchestra.api.cluster import Telemetry
from toolorchestra.bus.streams import StreamSettings, make_streams
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.contract.exit_status import EXIT_CODES
from toolorchestra.contract.progress import State
from toolorchestra.contract.streams import leases
from toolorchestra.local.errors import MachineError
from toolorchestra.local.nats_server import NatsServer
from toolorchestra.local.plan import LocalPlan, with_simulator, write_resources
from toolorchestra.local.snapshot_folder import snapshot_folder
from toolorchestra.process import Child, tail
from toolorchestra.rollout.heartbeat import STOOD_STILL
from toolorchestra.rollout.pools import pool_file
from toolorchestra.runs.run_dir import RunDir

READY_SECONDS = 120.0
POLL_SECONDS = 0.05
QUICK_SECONDS = 20.0
"""A process that dies within this time after its start, QUICK_LIMIT times in a row, is not started again. Imports alone
take seconds on a busy machine."""
QUICK_LIMIT = 5
GRACE_SECONDS = 20.0
ACK_WAIT_SECONDS = 20.0
"""Time after which a dead worker's episodes are redelivered; short, because a worker is restarted within seconds."""


class SupervisorError(MachineError):
    """A process of the run cannot be kept running; the message has the end of its log."""


def not_up(what: str, *, alive: bool, words: str) -> str:
    """Return why a process did not start, and what to do. `words`: the end of its log, which may be empty."""
    why = f"after {READY_SECONDS:g} s it is not ready" if alive else "it ended by itself"
    said = f"; the end of its log:\n{words}" if words.strip() else ", and its log is empty"
    remedy = "\nUsually the machine is busy, or has too little memory or space under /tmp: free some" if alive else ""
    return f"{what} did not come up: {why}{said}{remedy}"


def telemetry_environment(spec: Telemetry, *, given: Mapping[str, str], file: Path) -> dict[str, str]:
    """Return the environment variables for `spec.telemetry`; those in `given` are left out, so the user's win.

    `file`: where spans are written as JSON lines.
    """
    said = {"TOOLORCHESTRA_SPANS": spec.span_group, "OTEL_TRACES_SAMPLER_ARG": str(spec.ratio)}
    said["TOOLORCHESTRA_TRACES_FILE"] = str(file)
    if spec.otlp_endpoint is not None:
        said |= {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"}
        said["OTEL_EXPORTER_OTLP_ENDPOINT"] = spec.otlp_endpoint
    return {name: value for name, value in said.items() if name not in given}


def _ray_environment() -> dict[str, str]:
    """Return the environment of Ray's processes, which include trainers and engines.

    A token for this run: other users of the machine cannot use its Ray. Waiting threads sleep, because trainer and
    engine share the cores, and a spinning thread would take them from the other.
    """
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    patience = {"RAY_raylet_start_wait_time_s": "120", "RAY_worker_niceness": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    return token | patience | {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


@dataclass
class Supervisor:
    """The supervisor of one run. `say` prints a message for the user."""

    plan: LocalPlan
    run: RunDir
    uid: str
    say: Callable[[str], None]
    _driver: Child | None = None
    _snapshots: Path | None = None
    _ray_env: dict[str, str] = field(default_factory=_ray_environment)
    _interrupts: int = 0
    _children: list[Child] = field(default_factory=list[Child])
    _watchers: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def supervise(self) -> State:
        """Run to the end; return the final state."""
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self._interrupted)
        model, device = self.plan.model_dir, self.plan.compute.device
        async with AsyncExitStack() as stack:
            place = snapshot_folder(self.run, uid=self.uid, model=model, device=device, say=self.say)
            self._snapshots = stack.enter_context(place)  # removed after the processes that use it have ended
            stack.push_async_callback(self._end)
            try:
                config = await self._start(stack)
            except SupervisorError:
                if self._interrupts:  # the interrupt ended its processes
                    return "Cancelled"
                raise
            if self._interrupts:
                return "Cancelled"
            return await self._incarnations(config)

    # ── starting ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _start(self, stack: AsyncExitStack) -> DriverConfig:
        rollout, compute = self.plan.training.spec.rollout, self.plan.compute
        # No fsync per message: a killed server loses nothing, because the kernel has the pages. After a crash of the
        # machine, the journal, which is fsynced, has what matters; the rest is dispatched again.
        server = NatsServer(directory=self.run.root / "nats", sync_always=False)
        await stack.enter_async_context(server)
        self._watchers += [asyncio.create_task(self._tell_restarts(server)), asyncio.create_task(_watch(server))]
        await self._make_streams(server.url)
        pools = self.plan.pools
        if self.plan.uses_simulator:
            url = await self._start_simulator()
            pools = tuple(with_simulator(pool, url) for pool in pools)
        write_resources(self.run.root / "resources.yaml", self.plan.training, pools)
        pool_file(pools, workers=rollout.workers).write(self.run.root / "pools.json")
        for i in range(rollout.workers):
            self._keep(self._worker(i, server.url))
        address = await self._start_ray(stack)
        config = DriverConfig(
            uid=self.uid,
            run=self.run.root,
            nats_url=server.url,
            ray_address=address,
            resources=(self.run.root / "resources.yaml",),
            model_dir=self.plan.model_dir,
            volumes=dict(self.plan.volumes),
            device=compute.device,
            shared=compute.shared,
            memory=compute.memory,
            threads=compute.threads(cores=os.cpu_count() or 2),
            snapshots=self._snapshots,
        )
        config.write(self.run.root / "driver.json")
        return config

    async def _make_streams(self, url: str) -> None:
        rollout, client = self.plan.training.spec.rollout, await nats.connect(url)
        leased = leases(workers=rollout.workers, concurrency=rollout.concurrency_per_worker)
        settings = StreamSettings(max_ack_pending=leased, ack_wait=ACK_WAIT_SECONDS)
        await make_streams(client.jetstream(), uid=self.uid, settings=settings)
        await client.close()

    async def _start_simulator(self) -> str:
        assert self.plan.skills is not None
        log = self.run.logs / "simulator.log"
        port = _free_port()
        argv = [*_orchestra(), "simulate", "-f", str(self.plan.skills), "--port", str(port)]
        child = Child(name="simulator", argv=[*argv, "--time-scale", str(self.plan.time_scale)], log=log)
        self._keep(child)
        await self._ready("the simulator", child, lambda: _listens(port))
        return f"http://127.0.0.1:{port}"

    def _worker(self, number: int, nats_url: str) -> Child:
        rollout = self.plan.training.spec.rollout
        name = f"worker-{number}"
        argv = [*_orchestra(), "worker", "--nats", nats_url, "--uid", self.uid, "--name", name]
        argv += ["--pools", str(self.run.root / "pools.json"), "--model", str(self.plan.model_dir)]
        argv += ["--concurrency", str(rollout.concurrency_per_worker)]
        return Child(name=name, argv=argv, log=self.run.logs / f"{name}.log", env=self._telemetry())

    def _telemetry(self) -> dict[str, str]:
        spec = self.plan.training.spec.telemetry
        return telemetry_environment(spec, given=os.environ, file=self.run.root / "traces.jsonl")

    async def _start_ray(self, stack: AsyncExitStack) -> str:
        ready = self.run.root / "ray.json"
        ready.unlink(missing_ok=True)
        spec = self.plan.training.spec.ray
        cpus = spec.trainers.replicas + spec.engines.replicas + 1
        argv = [sys.executable, "-m", "toolorchestra.controller.ray_head", "--ready", str(ready), "--cpus", str(cpus)]
        compute = self.plan.compute
        argv += ["--gpus", str(len(compute.gpus))]
        child = Child(name="ray", argv=argv, log=self.run.logs / "ray.log", env=self._ray_env | compute.environment())
        child.start()
        self._children.append(child)
        await self._ready("Ray", child, ready.exists)
        info = json.loads(ready.read_text())
        stack.callback(shutil.rmtree, info["session"], ignore_errors=True)
        return str(info["address"])

    async def _ready(self, what: str, child: Child, test: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not test():
            alive = child.alive
            if not alive or time.monotonic() > deadline:
                raise SupervisorError(not_up(what, alive=alive, words=tail(child.log)))
            await asyncio.sleep(POLL_SECONDS)

    # ── keeping alive ──────────────────────────────────────────────────────────────────────────────────────────

    def _keep(self, child: Child) -> None:
        """Start a child process, and restart it whenever it dies."""
        child.start()
        self._children.append(child)
        self._watchers.append(asyncio.create_task(self._restart(child)))

    async def _restart(self, child: Child) -> None:
        quick = 0
        while True:
            began = time.monotonic()
            code = await child.wait()
            quick = quick + 1 if time.monotonic() - began < QUICK_SECONDS else 0
            how = "was blocked and ended itself" if code == STOOD_STILL else f"ended with status {code}"
            self.run.event("restart", f"{child.name} {how}; starting it again", process=child.name)
            if quick >= QUICK_LIMIT:
                raise SupervisorError(f"{child.name} dies repeatedly; the end of its log:\n{tail(child.log)}")
            child.start()

    async def _tell_restarts(self, server: NatsServer) -> None:
        """Record restarts of nats-server, which has its own supervision, in the run's events."""
        while True:
            seen = server.restarts
            await server.restarted(after=seen)
            self.run.event("restart", "nats-server ended; it was started again on its port", process="nats-server")

    async def _incarnations(self, config: DriverConfig) -> State:
        backoff = self.plan.training.spec.backoff_limit
        argv = [sys.executable, "-m", "toolorchestra.controller.driver", "--config", str(self.run.root / "driver.json")]
        ended: dict[int, State] = {code: state for state, code in EXIT_CODES.items() if state != "Failed"}
        log = self.run.logs / "controller.log"
        for failures in range(backoff + 1):
            driver = Child(name="controller", argv=argv, log=log, env=self._ray_env | self._telemetry())
            driver.start()
            self._driver = driver
            self._children.append(driver)
            code = await self._first_of(driver)
            if self._interrupts and code not in ended:
                return "Cancelled"
            if code in ended:
                return ended[code]
            self.run.event("failure", f"the controller ended with status {code}", log=tail(log, lines=6))
            if failures < backoff:
                self.say(f"the controller ended with status {code}; continuing from the last checkpoint")
        raise SupervisorError(f"the controller failed {backoff + 1} times; the end of its log:\n{tail(log)}")

    async def _first_of(self, driver: Child) -> int:
        """Wait for the driver; return its exit status. SupervisorError: another process cannot be kept running."""
        wait = asyncio.create_task(driver.wait())
        await asyncio.wait({wait, *self._watchers}, return_when=asyncio.FIRST_COMPLETED)
        for watcher in self._watchers:
            if watcher.done() and (error := watcher.exception()) is not None:
                wait.cancel()
                raise error
        return await wait

    # ── ending ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1 and self._driver is not None and self._driver.alive:
            self.say("stopping after this step, with a checkpoint … (Ctrl-C again stops at once)")
            self._driver.signal(signal.SIGTERM)
            return
        for child in reversed(self._children):
            child.kill()

    async def _end(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        alive = [child for child in reversed(self._children) if child.alive]
        await asyncio.gather(*(child.stop(grace=GRACE_SECONDS) for child in alive))
        for child in self._children:
            child.kill()


async def _watch(server: NatsServer) -> None:
    """Raise the server's error when its supervision gives up."""
    if (error := await server.gave_up()) is not None:
        raise error


def _orchestra() -> list[str]:
    return [sys.executable, "-m", "toolorchestra.cli.main"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
