"""What the operator makes for an attempt trains, without a node: every pod's command, environment and configuration is
run as a process of this machine, with real Ray, vLLM and NATS. Only addresses and paths are put in place."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.real_run import TINY_RUN
from support.tiny_model import tiny_model
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.ledger.history import account, read_history
from toolorchestra.ledger.journal import read_frames
from toolorchestra.local.nats_server import NatsServer
from toolorchestra.runs.run_dir import RunDir, read_jsonl
from toolorchestra_operator.messaging.servers import NatsServers
from toolorchestra_operator.messaging.streams import NatsStreams
from toolorchestra_operator.trainings import builtin, workers
from toolorchestra_operator.trainings.configuration import config_map
from toolorchestra_operator.trainings.desired import CONFIG_PATH, STORAGE_PATH, VOLUMES_PATH, Desired
from toolorchestra_operator.trainings.nats_look import NatsLook
from toolorchestra_operator.trainings.progress import status_fields
from toolorchestra_operator.trainings.runtime import Runtime
from toolorchestra_operator.trainings.streams import settings_of

# Beside the real node (`make e2e`): its minutes are too many for every change.
pytestmark = [pytest.mark.real, pytest.mark.cluster, pytest.mark.timeout(600)]

STEPS = 3
PATIENCE_SECONDS = 300.0
UID = "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Pods:
    """Runs containers of pod templates; `places` says what stands for which address and path."""

    def __init__(self, folder: Path, places: Mapping[str, str], secrets: Mapping[str, str]) -> None:
        self.folder, self.places, self.secrets = folder, places, secrets
        self.running: list[subprocess.Popen[bytes]] = []

    def placed(self, text: str) -> str:
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def start(self, name: str, template: Mapping[str, Any], *more: str) -> subprocess.Popen[bytes]:
        container = template["spec"]["containers"][0]
        first, *rest = (self.placed(word) for word in container["command"])
        programs = {"python": [sys.executable], "orchestra": [sys.executable, "-m", "toolorchestra.cli.main"]}
        environment = {**os.environ, **{one["name"]: self._value(one) for one in container["env"]}}
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*programs[first], *rest, *more],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.running.append(process)
        return process

    def _value(self, variable: Mapping[str, Any]) -> str:
        if "value" in variable:
            return self.placed(variable["value"])
        source = variable["valueFrom"]
        return "127.0.0.1" if "fieldRef" in source else self.secrets[source["secretKeyRef"]["name"]]

    def until(self, test: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not test():
            assert time.monotonic() < deadline, self.words()
            assert all(one.poll() is None for one in self.running), self.words()
            time.sleep(0.1)

    def words(self) -> str:
        return "\n".join(f"── {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))

    def end(self) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def session(pods: Pods, desired: Desired) -> Path:
    """Folder of the Ray that the head has started; of none before."""
    ready = Path(pods.placed(desired.run_path)) / "ray.json"
    return Path(json.loads(ready.read_text())["session"]) if ready.exists() else pods.folder / "none"


@contextmanager
def simulator(folder: Path) -> Iterator[str]:
    port = free_port()
    argv = [sys.executable, "-m", "toolorchestra.cli.main", "simulate", "-f", str(TINY_RUN / "skills.yaml")]
    with (folder / "simulator.log").open("wb") as log:
        process = subprocess.Popen([*argv, "--port", str(port), "--time-scale", "0"], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def wanted(nats_url: str, simulator_url: str) -> tuple[Desired, list[ExpertPool]]:
    """The tiny training as the API server would give it to the operator."""
    training, *pools = yaml.safe_load_all((TINY_RUN / "training.yaml").read_text())
    training["metadata"] |= {"namespace": "default", "uid": UID, "generation": 1}
    training["spec"]["algorithm"]["steps"] = STEPS
    training["spec"]["messaging"] = {"url": nats_url}
    for pool in pools:
        pool["spec"]["endpoint"]["url"] = simulator_url
    runtime = Runtime(cpu_image="cpu", gpu_image="gpu", worker_image="worker")
    desired = Desired(training, OrchestratorTraining.model_validate(training), runtime)
    return desired, [ExpertPool.model_validate(pool) for pool in pools]


async def test_an_attempt_s_pods_train_to_the_end(tmp_path: Path) -> None:
    tiny_model(tmp_path / "models" / "tiny")
    (tmp_path / "config").mkdir()
    servers = NatsServers(patience=60)
    look = NatsLook(servers)
    async with NatsServer(directory=tmp_path / "nats") as nats:
        with simulator(tmp_path) as experts:
            desired, pools = wanted(nats.url, experts)
            names = desired.names
            await NatsStreams(servers=servers).make(url=nats.url, uid=names.short_uid, settings=settings_of(desired))
            assert (await look.look(nats.url, names.short_uid)).ready
            port, service = free_port(), f"{names.attempt(1)}.{names.namespace}.svc"
            places = {
                f"{service}:{builtin.GCS_PORT}": f"127.0.0.1:{port}",
                service: "127.0.0.1",
                CONFIG_PATH: str(tmp_path / "config"),
                STORAGE_PATH: str(tmp_path / "storage"),
                f"{VOLUMES_PATH}/models": str(tmp_path / "models"),
            }
            pods = Pods(tmp_path, places, secrets={names.ray_token: "a" * 64})
            address = builtin.ray_address(desired, attempt=1)
            for name, text in config_map(desired, pools, attempt=1, ray_address=address)["data"].items():
                (tmp_path / "config" / name).write_text(pods.placed(text))
            try:
                jobs = [one for one in builtin.manifests(desired, attempt=1) if one["kind"] == "Job"]
                assert jobs[0]["metadata"]["name"] == names.job(1, "head")
                started = []
                for place, job in enumerate(jobs):
                    name = job["metadata"]["name"]
                    started.append(pods.start(name, job["spec"]["template"], "--port", str(port)))
                    # On one machine, unlike in pods, nodes share a folder of sockets, named in the order of joining.
                    sockets = (Path("raylet"), *(Path(f"raylet.{i}") for i in range(1, len(jobs))))
                    pods.until(lambda socket=sockets[place]: (session(pods, desired) / "sockets" / socket).exists())
                deployment = workers.deployment(desired, pools, attempt=1, replicas=1)
                pods.start("worker", deployment["spec"]["template"])
                assert started[0].wait(timeout=PATIENCE_SECONDS) == 0, pods.words()
            except subprocess.TimeoutExpired:
                pytest.fail(pods.words())
            finally:
                pods.end()
            told = (await look.look(nats.url, names.short_uid)).progress
            await servers.close()
    run = RunDir(Path(pods.placed(desired.run_path)))
    steps = [row["step"] for row in read_jsonl(run.metrics) if "step" in row]
    assert steps == list(range(1, STEPS + 1))
    assert (run.export / "last" / "model.safetensors").is_file()
    count = account(read_history(read_frames(run.journal)))
    assert (count.exact, count.open) == (True, 0)
    assert (told["state"], told["attempt"], told["step"]) == ("Complete", 1, STEPS)
    fields = status_fields(told, claim=desired.claim, root=pods.placed(STORAGE_PATH))
    assert (
        fields["checkpoint"]["uri"] == f"pvc://{names.storage}/{names.name}-{names.short_uid}/checkpoints/step-00000003"
    )
    assert datetime.fromisoformat(fields["checkpoint"]["time"]) <= datetime.fromtimestamp(time.time(), UTC)
