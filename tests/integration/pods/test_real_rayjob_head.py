"""A real Ray, started as KubeRay starts it by a RayJob's parameters, and jobs as KubeRay's operator submits them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from support.real_run import TINY_RUN
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.process import tail
from toolorchestra_operator.trainings import kuberay
from toolorchestra_operator.trainings.desired import Desired
from toolorchestra_operator.trainings.job_state import of_status
from toolorchestra_operator.trainings.runtime import Runtime

pytestmark = [pytest.mark.real, pytest.mark.cluster]  # in `make e2e`: its minutes are too many for every change

TOKEN = "t" * 64
HEADERS = {"x-ray-authorization": f"Bearer {TOKEN}"}
START_SECONDS = 240
STOPS = """
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(5)
    pathlib.Path("{saved}").touch()
    sys.exit(130)
signal.signal(15, stop)
pathlib.Path("{ready}").touch()
signal.pause()
"""
"""It takes longer to end than Ray gives a job by default."""
LOOKS = """
import json, ray, sys, time
ray.init(address="auto", namespace="u", log_to_driver=False)
while "trainer" not in (there := ray.cluster_resources()):
    time.sleep(0.2)
print(json.dumps(there))
sys.exit(75)
"""
RUNTIME = Runtime(cpu_image="c", gpu_image="g", worker_image="w", nats_url="nats://n")


def ray_cluster() -> dict[str, Any]:
    """`rayClusterSpec` of the tiny training."""
    parent = next(iter(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text())))
    parent["metadata"] |= {"namespace": "default", "uid": "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"}
    (job,) = kuberay.manifests(Desired(parent, OrchestratorTraining.model_validate(parent), RUNTIME), attempt=1)
    cluster: dict[str, Any] = job["spec"]["rayClusterSpec"]
    return cluster


def command(parameters: dict[str, str], *, head: bool) -> list[str]:
    """As KubeRay puts it together: a shell's line, of which booleans are switches but for some."""
    flags = ["--head"] if head else []
    for name, value in sorted(parameters.items()):
        flags.append(f"--{name}" if value == "true" and name != "include-dashboard" else f"--{name}={value}")
    return ["/bin/bash", "-c", "--", f"exec ray start {' '.join(flags)}"]


def environment(group: dict[str, Any]) -> dict[str, str]:
    """What the pod's container is given, as far as it is written there."""
    (container,) = group["template"]["spec"]["containers"]
    given = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, **given, "PATH": path, "RAY_AUTH_TOKEN": TOKEN, "RAY_CLUSTER_NAME": "tiny-1-abcde"}


@contextmanager
def started(argv: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def until(met: Callable[[Any], bool], ask: Callable[[], Any], *, log: Path) -> Any:
    """The first answer that is met."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            answer = await ask()
            if met(answer):
                return answer
        except aiohttp.ClientError as error:
            answer = error
        if time.monotonic() > deadline:
            pytest.fail(f"{answer}\n{tail(log)}")
        await asyncio.sleep(0.2)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: there are sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="tor-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_it_starts_runs_a_driver_and_says_how_it_ended(folder: Path) -> None:
    cluster = ray_cluster()
    head, trainers = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
    gcs, dashboard, agent, metrics, client, other_agent, other_metrics = free_ports(7)
    own = {
        "block": "true",
        "port": str(gcs),
        "dashboard-port": str(dashboard),
        "dashboard-agent-listen-port": str(agent),
        "metrics-export-port": str(metrics),
        "ray-client-server-port": str(client),
        "temp-dir": str(folder),
    }
    node = {
        "block": "true",
        "address": f"127.0.0.1:{gcs}",
        "dashboard-agent-listen-port": str(other_agent),
        "metrics-export-port": str(other_metrics),
    }
    url, log = f"http://127.0.0.1:{dashboard}/api/jobs/", folder / "head.log"
    with started(command({**head["rayStartParams"], **own}, head=True), environment(head), log):
        async with aiohttp.ClientSession() as session:

            async def job(name: str, **options: Any) -> dict[str, Any]:
                async with session.get(url + name, headers=HEADERS, **options) as answer:
                    return dict(await answer.json()) if answer.status == 200 else {"status": answer.status}

            async def health() -> int:
                async with session.get(f"http://127.0.0.1:{agent}{kuberay.HEALTH_PATH}") as answer:
                    return answer.status

            async def submit(name: str, code: str) -> None:
                program = folder / f"{name}.py"
                program.write_text(code)
                body = {"submission_id": name, "entrypoint": f"exec python {program}"}
                async with session.post(url, json=body, headers=HEADERS) as answer:
                    assert answer.status == 200, await answer.text()

            async def ends(name: str) -> dict[str, Any]:
                over = ("SUCCEEDED", "FAILED", "STOPPED")
                told = await until(lambda answer: answer.get("status") in over, lambda: job(name), log=log)
                return {"jobDeploymentStatus": "Failed", "jobStatus": told["status"], "message": told["message"]}

            await until(lambda status: status == 200, health, log=log)
            await until(lambda answer: answer["status"] == 404, lambda: job("none"), log=log)
            async with session.get(url) as answer:
                assert answer.status == 401, "nobody else uses it"

            ready = folder / "ready"
            await submit("stops", STOPS.format(ready=ready, saved=folder / "saved"))
            await until(bool, lambda: asyncio.to_thread(ready.exists), log=log)
            async with session.post(f"{url}stops/stop", headers=HEADERS) as answer:
                assert answer.status == 200
            assert of_status(await ends("stops")).life == "Stopped"
            assert (folder / "saved").exists(), "Ray kills after 3 seconds otherwise"

            argv = command({**trainers["rayStartParams"], **node}, head=False)
            with started(argv, environment(trainers), folder / "node.log"):
                await submit("looks", LOOKS)
                state = of_status({**await ends("looks"), "reason": "AppFailed"})
            assert state.life == "Paused"
            there = json.loads(state.message.splitlines()[-1])
            assert (there["CPU"], there["trainer"]) == (1, 1), "one logical CPU: the trainer's node's"
