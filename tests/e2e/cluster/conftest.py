"""One cluster with a node for all tests of this folder, which only run where they are asked for (`make e2e`)."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.release import Images, Release
from testbed.binaries import CannotBuild, binaries
from testbed.cluster import CHECKOUT
from testbed.image import image_of
from testbed.images import build, push, with_model
from testbed.kuberay import crd_folder
from testbed.leftovers import left_behind
from testbed.node_cluster import NodeCluster
from testbed.packages import CannotRun, ensure

_PASSED: list[str] = []
_OTHERS: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "e2e/cluster/" in report.nodeid and (report.when == "call" or not report.passed):
        what = report.nodeid.rpartition("::test_")[2].replace("_", " ")
        (_PASSED if report.passed else _OTHERS).append(what)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of all: what was covered."""
    if _PASSED or _OTHERS:
        provider = os.environ.get("PROVIDER") or "Builtin"
        not_so = f"; NOT: {', '.join(_OTHERS)}" if _OTHERS else ""
        print(f"e2e with {provider}: {len(_PASSED)} of {len(_PASSED) + len(_OTHERS)}: {', '.join(_PASSED)}{not_so}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def node_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    """A cluster whose node is Ready; pods are restricted in every namespace that the tests make."""
    try:
        ensure(install=True, say=print, images=True)
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


@pytest.fixture(scope="session")
def images(node_cluster: NodeCluster) -> Images:
    """Built once (minutes), with the demo's base model in those that serve or tokenize with it."""
    registry = node_cluster.registry

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    found = {"operator": push(build("operator", say=say), f"{registry}/toolorchestra-operator:test")}
    for role in ("worker", "cluster"):
        name = with_model(build(role, say=say), CHECKOUT / "examples/demo/base")
        found[role] = push(name, f"{registry}/toolorchestra-{role}:demo")
    programs = {
        "nats": Path(sys.executable).with_name("nats-server"),
        "jaeger": binaries(["jaeger"], say=say)["jaeger"],
    }
    for name, program in programs.items():
        found[name] = f"{registry}/{name}:test"
        image_of(program).push(found[name])
    return Images(**found)


@pytest.fixture(scope="session")
def release(node_cluster: NodeCluster, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The chart, installed; before it KubeRay's operator, where PROVIDER says so. A file's last test uninstalls it."""
    provider = os.environ.get("PROVIDER") or "Builtin"
    release = Release(node_cluster, images, tmp_path_factory.mktemp("release"), provider)
    if provider == "KubeRay":
        release.install_kuberay(*kuberay())
    release.install()
    return release


def kuberay() -> tuple[Path, list[Path]]:
    """Its operator's program, and all of its CRDs."""
    try:
        program = binaries(["kuberay-operator"], say=lambda line: print(line, file=sys.stderr, flush=True))
        return program["kuberay-operator"], sorted(crd_folder().glob("ray.io_*.yaml"))
    except CannotBuild as error:
        pytest.fail(str(error), pytrace=False)
