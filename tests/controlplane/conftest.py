"""A real API server for the tests of this folder, with the project's CRDs, and a namespace for each test."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from nats.aio.client import Client

from support.cluster.command_line import Run
from support.cluster.kuberay_life import KubeRay, World
from support.cluster.mortal_operator import LookingOperator
from support.cluster.pool_operator import Operator
from support.cluster.training_life import Stage, connected
from support.run_rig import orchestra
from testbed.api import Api
from testbed.cluster import Cluster, running
from testbed.kuberay import crd_files
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.runtime.settings import Settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.controlplane)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The API server with the project's CRDs served, and no controllers."""
    with running(tmp_path_factory.mktemp("control-plane")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kuberay(cluster: Cluster) -> Cluster:
    """The cluster with KubeRay's CRDs served too; without its controller, so that a test plays their status."""
    files, why_not = crd_files()
    if why_not:
        pytest.skip(why_not)
    cluster.api.apply_crds(files)
    return cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """Requests as the cluster's administrator."""
    return cluster.api


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a fresh namespace. Only a given cluster's is deleted: ours ends as a whole."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{readable}-{uuid.uuid4().hex[:6]}"
    cluster.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    if cluster.control_plane is None:
        cluster.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
async def server(cluster: Cluster) -> AsyncIterator[ApiServer]:
    """The operator's own adapter, as the cluster's administrator."""
    async with await ApiServer.connect(cluster.kubeconfig, timeout=60) as server:
        yield server


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A NATS server with JetStream, of this test alone."""
    async with NatsServer(directory=tmp_path / "nats", sync_always=False) as running:
        yield running


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Client]:
    """A client of it."""
    async with connected(nats_server.url) as client:
        yield client


@pytest.fixture
def stage(api: Api, namespace: str, bus: Client) -> Stage:
    """A training of the test's namespace, whose pods and controller the test plays."""
    return Stage(api, namespace, bus)


@pytest.fixture
async def world(
    kuberay: Cluster, server: ApiServer, namespace: str, nats_server: NatsServer, bus: Client
) -> AsyncIterator[World]:
    """A training on KubeRay, and the operator that looks after it."""
    images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
    settings = Settings.model_validate({"nats_url": nats_server.url, **images, "image_pull_secrets": ["registry"]})
    operator = LookingOperator(server, settings)
    stage = Stage(kuberay.api, namespace, bus)
    yield World(operator, stage, KubeRay(stage))
    await operator.close()


@pytest.fixture
def run(cluster: Cluster, namespace: str) -> Run:
    """`orchestra` about the test's namespace."""

    def orchestra_there(*arguments: object, status: int = 0) -> Result:
        return orchestra(*arguments, "--kubeconfig", cluster.kubeconfig, "--namespace", namespace, status=status)

    return orchestra_there


@pytest.fixture
async def operator(server: ApiServer, namespace: str) -> AsyncIterator[Operator]:
    """The pools' half of the operator, in the test's namespace."""
    made = Operator(server, namespace)
    yield made
    await made.prober.close()
