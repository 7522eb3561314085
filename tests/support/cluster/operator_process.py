"""The real operator as a process of its own, for tests: started, ended or killed, and its metrics read."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from support.cluster.mortal_operator import DIES_AFTER
from testbed.cluster import CHECKOUT
from testbed.control_plane import free_port
from toolorchestra.process import tail

_MODULE = "support.cluster.mortal_operator"
_TICK = 0.1
_PREFIX = "toolorchestra_operator_"


async def until(is_so: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
    """Ask until it is so. TimeoutError: it is not, after so many seconds."""
    async with asyncio.timeout(seconds):
        while True:
            if await is_so():
                return
            await asyncio.sleep(_TICK)


@dataclass
class RunningOperator:
    """One process of it."""

    process: asyncio.subprocess.Process
    log: Path
    metrics_port: int

    async def ends(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 30.0) -> int:
        """Its exit status, after this signal."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), seconds)

    async def samples(self, start: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Its metrics now whose names start so, by name and labels; empty while it does not serve them."""
        try:
            text = await asyncio.to_thread(_read, f"http://127.0.0.1:{self.metrics_port}/metrics")
        except OSError:
            return {}
        found = {}
        # Only what is asked for is parsed: it is asked for ten times a second.
        asked = "".join(line for line in text.splitlines(keepends=True) if line.startswith(_PREFIX + start))
        for family in text_string_to_metric_families(asked):
            for sample in family.samples:
                found[sample.name.removeprefix(_PREFIX), tuple(sorted(sample.labels.items()))] = sample.value
        return found

    async def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric over the labels that are not given."""
        samples = await self.samples(name)
        return sum(
            value for (one, had), value in samples.items() if one == name and labels.items() <= dict(had).items()
        )

    async def resyncs(self, number: int = 1, *, seconds: float = 120.0) -> None:
        """Wait until it has looked at everything so many times more, from now on: a resync under way does not count."""
        wanted = await self.sample("resyncs_total", outcome="done") + number + 1

        async def are_done() -> bool:
            return await self.sample("resyncs_total", outcome="done") >= wanted

        await until(are_done, seconds=seconds)

    def last_words(self) -> str:
        return tail(self.log, lines=40)


def _read(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as got:
        text: str = got.read().decode()
    return text


@asynccontextmanager
async def operator_process(
    kubeconfig: Path, log: Path, *flags: str, dies_after: int = 0
) -> AsyncIterator[RunningOperator]:
    """The operator, started; killed in the end where it still runs. `dies_after`: see
    `support.cluster.mortal_operator`."""
    health, metrics = free_port(), free_port()
    paths = os.pathsep.join(str(CHECKOUT / part) for part in ("tests", "operator", "workers"))
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _MODULE, "--kubeconfig", str(kubeconfig), "--host", "127.0.0.1"),
            *("--health-port", str(health), "--metrics-port", str(metrics), *flags),
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": paths, DIES_AFTER: str(dies_after)},
        )
    try:
        yield RunningOperator(process, log, metrics)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
