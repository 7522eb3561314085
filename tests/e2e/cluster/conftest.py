"""One cluster with a node for all tests of this folder, which only run where they are asked for (`make e2e`)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.binaries import CannotBuild
from testbed.leftovers import left_behind
from testbed.node_cluster import NodeCluster
from testbed.packages import CannotRun, ensure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def node_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    """A cluster whose node is Ready; pods are restricted in every namespace that the tests make."""
    try:
        ensure(install=True, say=print)
        cluster = NodeCluster(tmp_path_factory.mktemp("cluster"), say=print)
        cluster.start()
    except (CannotBuild, CannotRun) as error:
        pytest.fail(str(error), pytrace=False)
    namespace = cluster.node.namespace
    assert left_behind(cluster.folder, namespace=namespace), "who sees nothing now would see nothing later"
    try:
        yield cluster
    finally:
        cluster.stop()
    assert left_behind(cluster.folder, namespace=namespace) == []


@pytest.fixture
def restricted_namespace(node_cluster: NodeCluster) -> str:
    """A fresh namespace in which pod security `restricted` is enforced."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    node_cluster.api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    return name
