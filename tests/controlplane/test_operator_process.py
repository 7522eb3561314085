"""The operator's process against a real API server: it sees what happens, and goes on through what happens to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch

from support.cluster.operator_process import until
from testbed.api import Api
from testbed.cluster import CHECKOUT, Cluster
from testbed.control_plane import free_port
from toolorchestra.process import tail

POOLS = "/apis/toolorchestra.dev/v1alpha1/namespaces/{}/expertpools"
ROLE = [
    {"apiGroups": ["toolorchestra.dev"], "resources": ["*"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": [""], "resources": ["services", "persistentvolumeclaims"], "verbs": ["list", "watch"]},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "watch"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list", "watch"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["list", "watch"]},
    {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["list", "watch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
]
"""What the recording operator needs in a namespace, less the right to make ConfigMaps."""
MAKE_CONFIG_MAPS = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch"]}

Line = dict[str, str]


class Operator:
    """One process of it, and what it said that it looked at."""

    def __init__(self, process: asyncio.subprocess.Process, *, log: Path, health: int, metrics: int) -> None:
        self.process, self._log, self._health, self._metrics = process, log, health, metrics
        self.lines: list[Line] = []

    async def sees(self, what: Callable[[Line], bool], *, seconds: float = 90.0) -> Line:
        """The next look that is so; those before it are kept in `lines`."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                while text := await self.process.stdout.readline():
                    self.lines.append(json.loads(text))
                    if what(self.lines[-1]):
                        return self.lines[-1]
        except TimeoutError:
            log = tail(self._log, lines=40)
            pytest.fail(f"not seen within {seconds:.0f} s; seen was {self.lines}; the log:\n{log}")
        pytest.fail(f"the operator ended with {await self.process.wait()}; its log:\n{tail(self._log, lines=40)}")

    async def get(self, path: str) -> tuple[int, str]:
        """An answer of its health (`/healthz`) or metrics (`/metrics`) server."""
        port = self._metrics if path == "/metrics" else self._health
        return await asyncio.to_thread(answer, f"http://127.0.0.1:{port}{path}")

    async def sample(self, name: str) -> float:
        """The sum of a metric over its labels."""
        _, text = await self.get("/metrics")
        found = [line for line in text.splitlines() if line.startswith(f"toolorchestra_operator_{name}")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    async def ends(self, number: signal.Signals, *, seconds: float = 20.0) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), seconds)


def answer(url: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=30) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@asynccontextmanager
async def operator(
    kubeconfig: Path, log: Path, *flags: str, module: str = "support.cluster.recording_operator"
) -> AsyncIterator[Operator]:
    """The recording operator, started; killed in the end where it still runs."""
    health, metrics = free_port(), free_port()
    paths = os.pathsep.join(str(CHECKOUT / part) for part in ("tests", "operator", "workers"))
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "--kubeconfig", str(kubeconfig)),
            *("--host", "127.0.0.1", "--health-port", str(health), "--metrics-port", str(metrics), *flags),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": paths},
        )
    try:
        yield Operator(process, log=log, health=health, metrics=metrics)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def make(api: Api, namespace: str, name: str, **endpoint: str) -> None:
    spec: dict[str, Any] = {"type": "Endpoint", "endpoint": {"url": "https://example.org/v1", "model": "m", **endpoint}}
    spec |= {"roles": ["Answer"], "price": {"inputUSDPerMillionTokens": "1", "outputUSDPerMillionTokens": "2"}}
    spec |= {"expectedLatencyMilliseconds": 100}
    api.create(
        POOLS.format(namespace),
        {"apiVersion": "toolorchestra.dev/v1alpha1", "kind": "ExpertPool", "metadata": {"name": name}, "spec": spec},
    )


def look(namespace: str, name: str, what: str) -> Callable[[Line], bool]:
    return lambda line: (line["namespace"], line["name"], line["what"]) == (namespace, name, what)


async def test_what_happens_to_a_resource_and_its_children_is_seen(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    api = cluster.api
    async with operator(cluster.kubeconfig, tmp_path / "operator.log") as running:
        make(api, namespace, "first")
        await running.sees(look(namespace, "first", "incomplete"))
        await running.sees(look(namespace, "first", "steady"))
        # Its child is taken away by hand: that is an event of the parent's.
        api.delete(f"/api/v1/namespaces/{namespace}/configmaps/first-seen")
        await running.sees(look(namespace, "first", "incomplete"))
        await running.sees(look(namespace, "first", "steady"))
        events = api.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
        [news] = [event for event in events if event["regarding"]["name"] == "first"]
        assert (news["reason"], news["note"], news["type"]) == ("Accepted", "a child was made", "Normal")
        assert await running.get("/healthz") == (200, '{"alive": "yes"}')
        assert await running.get("/readyz") == (200, '{"ready": "yes"}')
        assert await running.sample('reconcile_seconds_count{kind="ExpertPool"') >= 4
        assert await running.sample('api_requests_total{code="200",resource="expertpools",verb="watch"}') == 1
        api.delete(f"{POOLS.format(namespace)}/first")
        await running.sees(look(namespace, "first", "gone"))
        assert await running.ends(signal.SIGTERM) == 0


async def test_killed_and_started_again_it_looks_at_everything_and_writes_nothing(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    names = {f"pool-{number}" for number in range(20)}
    flags = ("--watch-namespaces", namespace)
    deaf = ("--silence-seconds", "0.001")
    async with operator(cluster.kubeconfig, tmp_path / "first.log", *flags, *deaf) as running:
        for name in names:
            make(cluster.api, namespace, name)
        steady: set[str] = set()
        while steady != names:
            steady.add((await running.sees(lambda line: line["what"] == "steady"))["name"])
        assert (await running.get("/healthz"))[0] == 500, "its watches are silent for longer than it was told to bear"
        await running.ends(signal.SIGKILL)
    since = cluster.audit_log.position()
    async with operator(cluster.kubeconfig, tmp_path / "second.log", *flags) as running:
        for _ in names:
            await running.sees(lambda line: True)
        # Whatever else was due has been looked at when a look that was asked for after it is over.
        make(cluster.api, namespace, "last")
        await running.sees(look(namespace, "last", "incomplete"))
        looked = [line["name"] for line in running.lines if line["name"] != "last"]
        assert set(looked) == names
        assert len(looked) < 2 * len(names), "not once more for every child"
        assert {line["what"] for line in running.lines if line["name"] != "last"} == {"steady"}
    writes = cluster.audit_log.writes(since=since, user_agent="toolorchestra-operator", namespace=namespace)
    about_last = [write for write in writes if write.name.startswith("last")]
    assert writes == about_last


async def test_it_goes_on_when_the_api_server_is_back(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    plane = cluster.own
    async with operator(cluster.kubeconfig, tmp_path / "operator.log") as running:
        make(cluster.api, namespace, "before")
        await running.sees(look(namespace, "before", "steady"))
        await plane.restart_api_server(down=1.0, kill=True)
        make(cluster.api, namespace, "after")
        await running.sees(look(namespace, "after", "steady"))
        assert (await running.get("/healthz"))[0] == 200
        assert await running.ends(signal.SIGTERM) == 0


async def test_a_missing_right_is_a_condition_and_heals(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """In one namespace, as a user who may do little and nothing anywhere else."""
    api, user = cluster.api, f"operator-{namespace}"[:60].strip("-")
    kubeconfig = cluster.own.kubeconfig_of(user)
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    role: dict[str, Any] = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "o"}}
    api.create(f"{rbac}/roles", {**role, "rules": ROLE})
    api.create(
        f"{rbac}/rolebindings",
        {
            "metadata": {"name": "o"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "o"},
            "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        },
    )
    make(api, namespace, "refused")
    async with operator(kubeconfig, tmp_path / "operator.log", "--watch-namespaces", namespace) as running:
        await running.sees(look(namespace, "refused", "incomplete"))
        # The next look is caused by the condition that the first one wrote.
        await running.sees(look(namespace, "refused", "incomplete"))
        status = api.get(f"{POOLS.format(namespace)}/refused")["status"]
        [condition] = [one for one in status["conditions"] if one["type"] == "Accepted"]
        assert (condition["status"], condition["reason"]) == ("False", "Forbidden")
        assert (len(status["conditions"]), status["observedGeneration"]) == (6, 1), "all of them, of this generation"
        assert 'cannot patch resource "configmaps"' in condition["message"]
        api.merge(f"{rbac}/roles/o", {"rules": [*ROLE, MAKE_CONFIG_MAPS]})
        await running.sees(look(namespace, "refused", "steady"))
        assert await running.ends(signal.SIGTERM) == 0


async def test_a_missing_right_to_watch_is_said_and_restarts_nothing(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """It works on, is not ready, and sees everything again as soon as it may."""
    api, user = cluster.api, f"watcher-{namespace}"[:60].strip("-")
    kubeconfig = cluster.own.kubeconfig_of(user)
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rules = [*ROLE, MAKE_CONFIG_MAPS]
    may_not = [rule for rule in rules if rule["resources"] != ["jobs"]]
    role: dict[str, Any] = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "o"}}
    api.create(f"{rbac}/roles", {**role, "rules": may_not})
    binding = {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "o"}}
    subjects = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
    api.create(f"{rbac}/rolebindings", {"metadata": {"name": "o"}, **binding, "subjects": subjects})
    make(api, namespace, "pool")
    async with operator(kubeconfig, tmp_path / "operator.log", "--watch-namespaces", namespace) as running:
        await running.sees(look(namespace, "pool", "steady"))
        jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        said = f"{jobs}: list is refused: the service account lacks this right"
        assert await running.get("/healthz") == (200, '{"alive": "yes"}')
        assert await running.get("/readyz") == (500, json.dumps({"ready": said}))
        assert await running.sample("watches_deaf") == 1
        api.merge(f"{rbac}/roles/o", {"rules": rules})

        async def is_ready() -> bool:
            return (await running.get("/readyz"))[0] == 200

        await until(is_ready, seconds=90)
        assert await running.sample("watches_deaf") == 0
        assert await running.ends(signal.SIGTERM) == 0


def ready(kubeconfig: Path, namespace: str, name: str) -> Line:
    """The statuses of a pool's conditions, once it is ready."""
    custom = client.CustomObjectsApi(config.new_client_from_config(str(kubeconfig), persist_config=False))  # type: ignore[no-untyped-call]
    where = ("toolorchestra.dev", "v1alpha1", namespace, "expertpools")
    seen: Line = {}
    for event in watch.Watch().stream(custom.list_namespaced_custom_object, *where, timeout_seconds=90):  # type: ignore[no-untyped-call]
        pool = event["object"]
        if pool["metadata"]["name"] == name:
            seen = {one["type"]: one["status"] for one in (pool.get("status") or {}).get("conditions", [])}
            if seen.get("Ready") == "True":
                return seen
    pytest.fail(f"{name} is not ready after 90 s: {seen}")


async def test_the_real_operator_says_that_an_endpoint_is_ready(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    make(cluster.api, namespace, "outside", probe="None")
    log = tmp_path / "operator.log"
    flags = ("--watch-namespaces", namespace)
    async with operator(cluster.kubeconfig, log, *flags, module="toolorchestra_operator.runtime.main") as running:
        assert (await asyncio.to_thread(ready, cluster.kubeconfig, namespace, "outside"))["Accepted"] == "True"
        assert await running.ends(signal.SIGTERM) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--workers", "many", "--workers (TOOLORCHESTRA_OPERATOR_WORKERS) = 'many'"),
        ("--nats-url", "not a url", "'not a url' is not a NATS URL; want a NATS URL such as nats://host:4222"),
    ],
)
async def test_bad_settings_are_said_and_end_it(
    cluster: Cluster, tmp_path: Path, flag: str, value: str, said: str
) -> None:
    log = tmp_path / "operator.log"
    async with operator(cluster.kubeconfig, log, flag, value) as running:
        assert await asyncio.wait_for(running.process.wait(), 60) == 2
    assert said in log.read_text()


async def test_an_api_server_that_does_not_answer_is_asked_again_and_sigterm_is_obeyed(tmp_path: Path) -> None:
    asked = asyncio.Queue[None]()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        asked.put_nowait(None)

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    kubeconfig = tmp_path / "kubeconfig"
    given: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
    given |= {"clusters": [{"name": "c", "cluster": {"server": address}}]}
    given |= {"users": [{"name": "u", "user": {"token": "t"}}]}
    given |= {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}
    kubeconfig.write_text(json.dumps(given))
    async with server, operator(kubeconfig, tmp_path / "operator.log") as running, asyncio.timeout(90):
        for _ in range(3):
            await asked.get()
        assert await running.ends(signal.SIGTERM) == 0
