"""The control plane of the tests does what they rely on: it logs every write, survives restarts, and ends with them."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.api import Api, Refused
from testbed.cluster import CHECKOUT, Cluster

ORPHAN = """
import sys
from pathlib import Path
from testbed.control_plane import ControlPlane

plane = ControlPlane(Path(sys.argv[1]))
plane.etcd.start()
print(plane.etcd.pid, flush=True)
sys.stdin.read()
"""


def config_map(namespace: str, name: str = "") -> str:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    return f"{path}/{name}" if name else path


def test_every_write_is_logged_once_and_no_read_is(cluster: Cluster, namespace: str) -> None:
    api = Api(cluster.kubeconfig, user_agent="someone/1")
    since = cluster.audit_log.position()
    api.create(config_map(namespace), {"metadata": {"name": "a"}})
    api.get(config_map(namespace, "a"))
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}}
    api.apply(config_map(namespace, "a"), body, manager="tester")
    api.apply(config_map(namespace, "a"), body, manager="tester", dryRun="All")
    api.delete(config_map(namespace, "a"))
    with pytest.raises(Refused, match="not found"):
        api.delete(config_map(namespace, "a"))
    writes = cluster.audit_log.writes(since=since, user_agent="someone/", namespace=namespace)
    assert [(write.verb, write.code, write.dry_run) for write in writes] == [
        ("create", 201, False),
        ("patch", 200, False),
        ("patch", 200, True),
        ("delete", 200, False),
        ("delete", 404, False),
    ]
    assert writes[1].field_manager == "tester"
    assert {write.resource for write in writes} == {"configmaps"}


async def test_a_restart_keeps_the_data_and_can_be_seen_from_outside(cluster: Cluster, namespace: str) -> None:
    plane = cluster.own
    cluster.api.create(config_map(namespace), {"metadata": {"name": "kept"}})
    before = plane.api_server.pid
    outage = asyncio.create_task(plane.restart_api_server(down=0.5, kill=True))
    await plane.api_server.wait()
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection("127.0.0.1", plane.port)
    await outage
    assert plane.api_server.pid != before
    assert cluster.api.get(config_map(namespace, "kept"))["metadata"]["name"] == "kept"


def test_a_user_without_a_role_is_refused(cluster: Cluster, namespace: str) -> None:
    nobody = Api(cluster.own.kubeconfig_of("nobody"))
    with pytest.raises(Refused, match='User "nobody" cannot list resource "configmaps"') as caught:
        nobody.get(config_map(namespace))
    assert caught.value.code == 403


def test_ray_jobs_are_served_and_their_status_can_be_played(kuberay: Cluster, namespace: str) -> None:
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    head = {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "head", "image": "x"}]}}}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "a"},
        "spec": {"entrypoint": "true", "rayClusterSpec": {"headGroupSpec": head}},
    }
    kuberay.api.create(path, job)
    kuberay.api.merge(f"{path}/a/status", {"status": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}})
    assert kuberay.api.get(f"{path}/a")["status"]["jobStatus"] == "RUNNING"


def test_nothing_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT / 'tests'}:{CHECKOUT / 'workers'}"},
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    ended, _, _ = select.select([child], [], [], 30)
    os.close(child)
    assert ended, "etcd is still there 30 s after its parent was killed"
