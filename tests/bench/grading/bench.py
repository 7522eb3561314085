"""What the sandbox costs: CPU seconds per episode against grading in threads of the worker, in paired runs.

Episodes are real but for the policy's engine: bus, parser, purse, tokenizer, the experts' HTTP client against
`orchestra simulate` in another process, grading by reasoning-gym's own scorers. CPU of the worker, and in the sandbox's
case of zygote and children too. Both graders are warm before a run is measured; runs alternate.

Raw results: .bench/grading/results.json. `--episodes`, `--pairs`.
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
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.experts.client import ExpertClient
from toolorchestra.policy.fake import FakeEngine, byte_renderer
from toolorchestra.policy.parser import ToolCall, format_calls
from toolorchestra.rollout.codec import decode_trace, encode_order
from toolorchestra.rollout.episode import Host
from toolorchestra.rollout.order import EpisodeLimits, Order
from toolorchestra.rollout.pools import PoolEntry, PoolFile, read_pools
from toolorchestra.rollout.trace import Sampling
from toolorchestra.rollout.worker import Worker, WorkerSettings
from toolorchestra.tasks.grader import Grade, grade_of
from toolorchestra.tasks.gym import ReasoningGymGrader, score
from toolorchestra.tasks.judge import Judge
from toolorchestra.tasks.reasoning_gym import ReasoningGymSource
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import ExpertView, InstanceView, Price

RESULTS = Path(".bench/grading/results.json")
DATASETS = ("chain_sum", "letter_counting", "number_sorting", "spell_backward", "leg_counting")
"""Of the demo's kind."""
CONCURRENCY = 16
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


def order_of(task: Task, number: int, view: InstanceView) -> Order:
    limits = EpisodeLimits(max_turns=4, max_prompt_tokens=6000, max_response_tokens=900, timeout_seconds=120.0)
    return Order(
        issue=f"bench.{number}.0.0.0",
        task=task,
        view=view,
        limits=limits,
        sampling=Sampling(seed=number),
        version="0-0",
        allowance_usd=Decimal(1000),
    )


async def run(grading: Any, *, tasks: list[Task], experts: ExpertClient, view: InstanceView) -> dict[str, float]:
    renderer = byte_renderer()
    said = format_calls([ToolCall("answer", {"model": "oak"})])
    host = Host(experts=experts, grade=grading, engine=FakeEngine(renderer, lambda prompt: said), renderer=renderer)
    bus = MemoryBus()
    for number, task in enumerate(tasks):
        order = order_of(task, number, view)
        await bus.submit(Envelope(id=order.issue, body=encode_order(order), content="order/1"))
    worker = Worker(bus=bus, host=host, settings=WorkerSettings(concurrency=CONCURRENCY, lease_expiry_seconds=0.2))
    worker_before, others_before, began = time.process_time(), grading.cpu(), time.monotonic()
    working = asyncio.create_task(worker.run())
    right, done = 0.0, 0
    async for received in bus.results():
        await bus.ack(received)
        right += decode_trace(received.envelope.body).components.outcome or 0.0
        done += 1
        if done == len(tasks):
            break
    own, others = time.process_time() - worker_before, grading.cpu() - others_before
    wall = time.monotonic() - began
    worker.stop()
    await working
    return {
        "cpu_ms": 1000 * (own + others) / done,
        "sandbox_cpu_ms": 1000 * others / done,
        "wall_ms": 1000 * wall / done,
        "right": right,
        "episodes": done,
    }


async def bench(*, episodes: int, pairs: int, url: str, folder: Path) -> dict[str, Any]:
    price = Price(input_usd_per_million_tokens=Decimal(1), output_usd_per_million_tokens=Decimal(2))
    entry = PoolEntry(pool="oak", url=f"{url}/v1", model="oak", price=price, simulated=True)
    PoolFile(pools=(entry,)).write(folder / "pools.json")
    expert = ExpertView(alias="oak", pool="oak", description="all", price=price, latency_ms=10)
    view = InstanceView(price_book="own", policy_price=price, experts=(expert,))
    source = ReasoningGymSource(name="gym", datasets=DATASETS, size=episodes, seed=3)
    tasks = [source.task(i) for i in range(episodes)]
    runs: list[dict[str, Any]] = []
    async with ExpertClient(read_pools(folder / "pools.json", environment={})) as experts:
        threads, judge = Threads(), Sandboxed()
        for grading in (threads, judge):  # warm
            await run(grading, tasks=tasks[:200], experts=experts, view=view)
        for pair in range(pairs):
            order = [("threads", threads), ("sandbox", judge)]
            for name, grading in order if pair % 2 == 0 else reversed(order):
                result = await run(grading, tasks=tasks, experts=experts, view=view)
                runs.append({"pair": pair, "grading": name, **result})
                others = result["sandbox_cpu_ms"]
                print(
                    f"pair {pair} {name}: {result['cpu_ms']:.3f} ms of CPU per episode, {others:.3f} outside",
                    flush=True,
                )
        memory = memory_of(judge.pids())
        protections = {name: str(each) for name, each in (await judge.start()).items()}
        await threads.close()
        await judge.close()
    ratios = []
    for pair in range(pairs):
        found = {each["grading"]: each for each in runs if each["pair"] == pair}
        assert found["threads"]["right"] == found["sandbox"]["right"], "the two grade alike"
        ratios.append(found["sandbox"]["cpu_ms"] / found["threads"]["cpu_ms"])
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "pss_mib": memory,
        "protections": protections,
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "runs": runs,
    }


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
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        port = _free_port()
        skills = Path(folder) / "skills.yaml"
        skills.write_text(_SKILLS)
        command = [sys.executable, "-m", "toolorchestra.cli.main", "simulate", "-f", str(skills), "--port", str(port)]
        simulator = subprocess.Popen([*command, "--time-scale", "0"], stdout=subprocess.DEVNULL)
        try:
            _wait_for(port)
            url = f"http://127.0.0.1:{port}"
            found = asyncio.run(bench(episodes=options.episodes, pairs=options.pairs, url=url, folder=Path(folder)))
        finally:
            simulator.terminate()
            simulator.wait()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1))
    memory = found["pss_mib"]
    print(f"CPU per episode, sandbox / threads: {found['ratio']:.3f} (bar: at most 1.05; median of {options.pairs})")
    print(f"memory of the pool (PSS): {memory['all']:.0f} MiB, of it children {memory['children']:.0f} MiB")
    print(f"raw results: {RESULTS}")


if __name__ == "__main__":
    main()
