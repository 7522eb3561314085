"""What the sandbox costs: CPU seconds per episode against grading in threads of the worker, in paired runs.

Episodes are real: bus, parser, budget, tokenizer, the experts' HTTP client against `orchestra simulate` in another
process, grading by reasoning-gym's own scorers. Two bases:

- `worker`: an engine that answers at once, so that an episode is what the worker does for it. CPU of the worker, and in
  the sandbox's case of zygote and children too.
- `episode`: the demo's policy in a real vLLM, whose processes count too. It generates for every prompt; what is played
  is the script's all the same, so that both gradings are given the same answers.

Both graders are warm before a run is measured; runs alternate, and the ratio is the median of the pairs'.

Raw results: .bench/grading/results.json. `--episodes`, `--pairs`, and `--engine-…` for the second base.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import psutil

from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.engines.arguments import EngineConfig
from toolorchestra.engines.server import EngineServer
from toolorchestra.experts.client import ExpertClient
from toolorchestra.policy.engine import Engine, Generation, GenerationParameters, VLLMEngine
from toolorchestra.policy.fake import FakeEngine, byte_renderer
from toolorchestra.policy.parser import ToolCall, format_calls
from toolorchestra.policy.renderer import Renderer
from toolorchestra.rollout.codec import decode_trace, encode_order
from toolorchestra.rollout.episode import Host
from toolorchestra.rollout.order import EpisodeLimits, Order
from toolorchestra.rollout.pools import PoolEntry, PoolFile, read_pools
from toolorchestra.rollout.trace import Ending, Sampling
from toolorchestra.rollout.worker import Worker, WorkerSettings
from toolorchestra.tasks.grader import Grade, grade_of
from toolorchestra.tasks.gym import ReasoningGymGrader, score
from toolorchestra.tasks.judge import Judge
from toolorchestra.tasks.reasoning_gym import ReasoningGymSource
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import ExpertView, InstanceView, Price

RESULTS = Path(".bench/grading/results.json")
MODEL = Path("examples/demo/base")
DATASETS = ("chain_sum", "letter_counting", "number_sorting", "spell_backward", "leg_counting")
"""Of the demo's kind."""
CONCURRENCY = 16
BAR = 1.05
ALIASES = ("oak", "amber", "bridge", "coral", "lemon", "tower")
"""As many as the demo's experts: prompts of its length. The first one is asked."""
_SKILLS = """
apiVersion: toolorchestra.dev/v1alpha1
kind: SkillTable
metadata: {name: bench}
spec:
  seed: 7
  experts:
  - {name: oak, default: {accuracy: "0.7"}, tokensOut: 60, latencyMilliseconds: {p50: 100, p99: 300}}
"""
_TICK = os.sysconf("SC_CLK_TCK")

Grading = Callable[[Task, str | None], Awaitable[Grade]]


class Threads:
    """Grading as it was: the scorer in two threads of the worker."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)

    async def __call__(self, task: Task, answer: str | None) -> Grade:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._grade, task, answer or "")

    def _grade(self, task: Task, answer: str) -> Grade:
        return grade_of(score(ReasoningGymGrader().job(task, answer)))

    async def close(self) -> None:
        self._pool.shutdown()

    def cpu(self) -> float:
        return 0.0


class Sandboxed(Judge):
    """The judge, with its processes' CPU."""

    def pids(self) -> list[int]:
        return [pid for sandbox in self._sandboxes.values() for pid in (*sandbox.pids(), *sandbox.busy_pids())]

    def cpu(self) -> float:
        return sum(_cpu_of(pid) for pid in self.pids())


def _cpu_of(pid: int) -> float:
    """Of a process and the children that it has reaped, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    reaped = sum(int(fields[i]) for i in (13, 14)) / _TICK
    return reaped + int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def memory_of(pids: list[int]) -> dict[str, float]:
    """Proportional set size in MiB: the zygote's, and of one child."""
    found = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)
    return {"zygote": found[0], "children": sum(found[1:]), "all": sum(found)}


class Generating:
    """A vLLM that generates for every prompt, and a script that says what came of it."""

    def __init__(self, real: VLLMEngine, script: FakeEngine) -> None:
        self._real, self._script = real, script

    async def routable(self, *, version: str | None = None) -> None:
        await self._script.routable(version=version)

    async def generate(
        self, prompt: Sequence[int], *, parameters: GenerationParameters, version: str | None = None
    ) -> Generation:
        await self._real.generate(prompt, parameters=parameters, started_with=self._script.version)
        return await self._script.generate(prompt, parameters=parameters, version=version)


@dataclass(frozen=True)
class Base:
    """What an episode is made of besides its grading."""

    name: str
    engine: Engine
    renderer: Renderer
    max_response_tokens: int
    engine_cpu: Callable[[], float]


def order_of(task: Task, number: int, view: InstanceView, base: Base) -> Order:
    limits = EpisodeLimits(
        max_turns=4, max_prompt_tokens=6000, max_response_tokens=base.max_response_tokens, timeout_seconds=600.0
    )
    return Order(
        issue=f"bench.{number}.0.0.0",
        task=task,
        view=view,
        limits=limits,
        sampling=Sampling(seed=number),
        version="0-0",
        allowance_usd=Decimal(1000),
    )


async def run(
    grading: Any, base: Base, *, tasks: list[Task], experts: ExpertClient, view: InstanceView
) -> dict[str, float]:
    host = Host(experts=experts, grade=grading, engine=base.engine, renderer=base.renderer)
    bus = MemoryBus()
    for number, task in enumerate(tasks):
        order = order_of(task, number, view, base)
        await bus.submit(Envelope(id=order.issue, body=encode_order(order), content="order/1"))
    worker = Worker(bus=bus, host=host, settings=WorkerSettings(concurrency=CONCURRENCY, lease_expiry_seconds=0.2))
    engine_before, others_before = base.engine_cpu(), grading.cpu()
    worker_before, began = time.process_time(), time.monotonic()
    working = asyncio.create_task(worker.run())
    right, done = 0.0, 0
    async for received in bus.results():
        await bus.ack(received)
        trace = decode_trace(received.envelope.body)
        assert trace.ending is Ending.ANSWERED, "every episode comes to be graded"
        right += trace.components.outcome or 0.0
        done += 1
        if done == len(tasks):
            break
    wall, own = time.monotonic() - began, time.process_time() - worker_before
    others, engine = grading.cpu() - others_before, base.engine_cpu() - engine_before
    worker.stop()
    await working
    return {
        "cpu_ms": 1000 * (own + others + engine) / done,
        "worker_cpu_ms": 1000 * own / done,
        "sandbox_cpu_ms": 1000 * others / done,
        "engine_cpu_ms": 1000 * engine / done,
        "wall_ms": 1000 * wall / done,
        "right": right,
        "episodes": done,
    }


async def compare(
    base: Base, *, tasks: list[Task], pairs: int, experts: ExpertClient, view: InstanceView
) -> dict[str, Any]:
    """Paired runs on one base."""
    runs: list[dict[str, Any]] = []
    threads, judge = Threads(), Sandboxed()
    for each in (threads, judge):  # warm
        await run(each, base, tasks=tasks[:200], experts=experts, view=view)
    for pair in range(pairs):
        order: list[tuple[str, Any]] = [("threads", threads), ("sandbox", judge)]
        for name, grading in order if pair % 2 == 0 else reversed(order):
            result = await run(grading, base, tasks=tasks, experts=experts, view=view)
            runs.append({"pair": pair, "grading": name, **result})
            print(
                f"{base.name} {pair} {name}: {result['cpu_ms']:.3f} ms of CPU per episode"
                f" (worker {result['worker_cpu_ms']:.3f}, sandbox {result['sandbox_cpu_ms']:.3f},"
                f" engine {result['engine_cpu_ms']:.3f})",
                flush=True,
            )
    memory = memory_of(judge.pids())
    protections = {name: str(each) for name, each in (await judge.start()).items()}
    await threads.close()
    await judge.close()
    ratios, without_engine = [], []
    for pair in range(pairs):
        found = {each["grading"]: each for each in runs if each["pair"] == pair}
        assert found["threads"]["right"] == found["sandbox"]["right"], "the two grade alike"
        ratios.append(found["sandbox"]["cpu_ms"] / found["threads"]["cpu_ms"])
        more = sum(found["sandbox"][part] - found["threads"][part] for part in ("worker_cpu_ms", "sandbox_cpu_ms"))
        without_engine.append(1 + more / statistics.mean(each["cpu_ms"] for each in found.values()))
    return {
        "ratio": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4) if pairs > 1 else ratios,
        "ratios": ratios,
        "ratio_without_the_engines_spread": statistics.median(without_engine),
        "pss_mib": memory,
        "protections": protections,
        "runs": runs,
    }


def _family_cpu(pid: int) -> float:
    """Of a process and all that it started, in seconds."""
    root = psutil.Process(pid)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


async def bench(options: argparse.Namespace, *, url: str, folder: Path, engine: EngineServer | None) -> dict[str, Any]:
    price = Price(input_usd_per_million_tokens=Decimal(1), output_usd_per_million_tokens=Decimal(2))
    entry = PoolEntry(pool="oak", url=f"{url}/v1", model="oak", price=price, simulated=True)
    PoolFile(pools=(entry,)).write(folder / "pools.json")
    views = [
        ExpertView(alias=alias, pool="oak", description="exact at numbers and equations", price=price, latency_ms=10)
        for alias in ALIASES
    ]
    view = InstanceView(price_book="own", policy_price=price, experts=tuple(views))
    source = ReasoningGymSource(
        name="gym", datasets=DATASETS, size=max(options.episodes, options.engine_episodes), seed=3
    )
    tasks = [source.task(i) for i in range(len(source))]
    said = format_calls([ToolCall("answer", {"model": ALIASES[0]})])
    found: dict[str, Any] = {"cpus": os.cpu_count(), "python": sys.version.split()[0]}
    async with (
        ExpertClient(read_pools(folder / "pools.json", environment={})) as experts,
        aiohttp.ClientSession() as session,
    ):
        renderer = byte_renderer()
        base = Base("worker", FakeEngine(renderer, lambda prompt: said), renderer, 900, lambda: 0.0)
        found[base.name] = await compare(
            base, tasks=tasks[: options.episodes], pairs=options.pairs, experts=experts, view=view
        )
        if engine is not None:
            renderer, pid = Renderer.load(MODEL), engine.pid or 0
            real = Generating(VLLMEngine(engine.url, session=session), FakeEngine(renderer, lambda prompt: said))
            base = Base("episode", real, renderer, 48, lambda: _family_cpu(pid))
            found[base.name] = await compare(
                base, tasks=tasks[: options.engine_episodes], pairs=options.engine_pairs, experts=experts, view=view
            )
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--engine-episodes", type=int, default=200)
    parser.add_argument("--engine-pairs", type=int, default=7, help="0: no vLLM is started")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        port = _free_port()
        skills = Path(folder) / "skills.yaml"
        skills.write_text(_SKILLS)
        command = [sys.executable, "-m", "toolorchestra.cli.main", "simulate", "-f", str(skills), "--port", str(port)]
        simulator = subprocess.Popen([*command, "--time-scale", "0"], stdout=subprocess.DEVNULL)
        stack.callback(simulator.wait)
        stack.callback(simulator.terminate)
        engine: EngineServer | None = None
        if options.engine_pairs:
            engine = EngineServer(EngineConfig(model_dir=str(MODEL.resolve())), log=Path(folder) / "engine.log")
            stack.callback(engine.stop)
            engine.start()
        _wait_for(port)
        url = f"http://127.0.0.1:{port}"
        found = asyncio.run(bench(options, url=url, folder=Path(folder), engine=engine))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1))
    for name in ("worker", "episode"):
        if (base := found.get(name)) is not None:
            low, *_, high = base["quartiles"]
            print(
                f"CPU per episode, sandbox / threads, base {name}: {base['ratio']:.3f}"
                f" (bar: at most {BAR}; median of {len(base['ratios'])} pairs, quartiles {low:.3f} and {high:.3f});"
                f" were the engine's CPU alike: {base['ratio_without_the_engines_spread']:.3f}"
            )
    memory = found["worker"]["pss_mib"]
    print(f"memory of the pool (PSS): {memory['all']:.0f} MiB, of it children {memory['children']:.0f} MiB")
    print(f"raw results: {RESULTS}")


if __name__ == "__main__":
    main()
