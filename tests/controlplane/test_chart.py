"""The chart on a real API server: its objects are accepted, its pods are restricted, its rights are those in use."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, MATRIX, NAMESPACE, environment, helm, of_kind, pod_templates, render
from support.cluster.pool_world import vllm_pool
from support.real_run import TINY_RUN
from testbed.api import Api, Refused
from testbed.cluster import CHECKOUT
from testbed.control_plane import ControlPlane, free_port
from testbed.kuberay import crd_files
from toolorchestra.kube.kinds import KINDS as KNOWN
from toolorchestra.kube.kinds import Kind
from toolorchestra.local.nats_server import NatsServer
from toolorchestra.process import tail

pytestmark = pytest.mark.chart

GROUP = "/apis/toolorchestra.dev/v1alpha1/namespaces/{}/{}"
CRDS = [CHECKOUT / "crds" / f"toolorchestra.dev_{name}.yaml" for name in ("expertpools", "orchestratortrainings")]
BLOCKS_DELETION = {("orchestratortrainings/finalizers.toolorchestra.dev", "update")}
BLOCKS_DELETION |= {("expertpools/finalizers.toolorchestra.dev", "update")}
"""Asked for by an admission plug-in, which is on here, and never in a request of their own."""
OF_KUBERAY = {("rayjobs.ray.io", verb) for verb in ("get", "list", "watch", "create", "delete")}
OF_KUEUE = {("workloads.kueue.x-k8s.io", "list")}
RBAC = "rbac.authorization.k8s.io/v1"
MORE = (
    Kind("apps/v1", "StatefulSet", "statefulsets"),
    Kind(RBAC, "Role", "roles"),
    Kind(RBAC, "RoleBinding", "rolebindings"),
    Kind(RBAC, "ClusterRole", "clusterroles", namespaced=False),
    Kind(RBAC, "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
)
NOT_HELMS = {kind for kind in KNOWN.values() if kind.group in ("apiextensions.k8s.io", "ray.io", "kueue.x-k8s.io")}
KINDS = {**KNOWN, **{kind.key: kind for kind in MORE}}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own: one that asks for the right to block a deletion, too."""
    flags = ["--enable-admission-plugins=OwnerReferencesPermissionEnforcement"]
    with ControlPlane(tmp_path_factory.mktemp("chart"), api_server_flags=flags) as plane:
        api = Api(plane.kubeconfig)
        api.apply_crds(CRDS)
        files, why_not = crd_files()
        if not why_not:
            api.apply_crds(files)
        for name in (NAMESPACE, "team-a", "team-b"):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        fast = {"provisioner": "example.org/none", "metadata": {"name": "fast"}}
        api.create("/apis/storage.k8s.io/v1/storageclasses", fast)
        yield plane


def path_of(one: Mapping[str, Any], *, named: bool = True) -> str:
    metadata = one["metadata"]
    name = metadata["name"] if named else ""
    return KINDS[one["apiVersion"], one["kind"]].path(namespace=metadata.get("namespace", ""), name=name)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_object_is_accepted_strictly(plane: ControlPlane, values: Mapping[str, Any]) -> None:
    api = Api(plane.kubeconfig)
    for one in render(values):
        if one["apiVersion"] == "monitoring.coreos.com/v1":
            continue  # the Prometheus operator's own kinds are not served here
        api.apply(path_of(one), one, dryRun="All", fieldValidation="Strict")


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_pod_is_let_into_a_restricted_namespace(plane: ControlPlane, values: Mapping[str, Any]) -> None:
    api = Api(plane.kubeconfig)
    for name, template in pod_templates(render(values)):
        pod = copy.deepcopy({"metadata": {"labels": template["metadata"]["labels"]}, "spec": template["spec"]})
        pod["metadata"]["name"] = name
        # The claims are the StatefulSet's to add; priority classes and accounts are not made here.
        mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        there = {volume["name"] for volume in pod["spec"]["volumes"]}
        pod["spec"]["volumes"] += [{"name": one, "emptyDir": {}} for one in mounted - there]
        api.create(f"/api/v1/namespaces/{NAMESPACE}/pods", pod, dryRun="All")
        pod["spec"]["containers"][0]["securityContext"].pop("capabilities")
        with pytest.raises(Refused, match="PodSecurity"):
            api.create(f"/api/v1/namespaces/{NAMESPACE}/pods", pod, dryRun="All")


# ── a release ──────────────────────────────────────────────────────────────────────────────────────────────────────


def owned(api: Api, release: str) -> set[str]:
    """Everything of the release that the server has, but for the definitions."""
    found = set()
    for kind in KINDS.values():
        if kind in NOT_HELMS:
            continue
        items = api.request("GET", kind.path(), labelSelector=f"app.kubernetes.io/instance={release}")["items"]
        found |= {f"{kind.name} {one['metadata']['name']}" for one in items}
    return found


def test_a_release_is_installed_upgraded_and_uninstalled_but_for_its_definitions(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as plane:
        api = Api(plane.kubeconfig)

        def run(*flags: str, **values: Any) -> str:
            argv = [str(helm()), *flags, "--kubeconfig", str(plane.kubeconfig), "--namespace", "sys"]
            argv += ["--values", "-"] if flags[0] in ("install", "upgrade") else []
            done = subprocess.run(argv, input=yaml.safe_dump(values), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        said = run("install", "mine", str(CHART), "--create-namespace", simulator={"enabled": True})
        assert "nats://mine-toolorchestra-nats.sys.svc:4222" in said
        assert "http://simulator.sys.svc/v1" in said
        first = owned(api, "mine")
        wanted = {
            "Deployment mine-toolorchestra-operator",
            "Deployment simulator",
            "StatefulSet mine-toolorchestra-nats",
        }
        assert wanted <= first
        assert not [one for one in first if one.startswith("Pod ")], "hooks wait for `helm test`"
        run("upgrade", "mine", str(CHART), nats={"enabled": False}, networkPolicy={"enabled": False})
        second = owned(api, "mine")
        assert second < first
        assert not [one for one in second if "nats" in one or "simulator" in one or "NetworkPolicy" in one]
        run("uninstall", "mine")
        assert owned(api, "mine") == set()
        definitions = api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
        assert {one["metadata"]["name"] for one in definitions} == {
            "expertpools.toolorchestra.dev",
            "orchestratortrainings.toolorchestra.dev",
        }


# ── rights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Running:
    """The operator as the chart's service account, and what it did."""

    api: Api
    plane: ControlPlane
    process: asyncio.subprocess.Process
    log: Path
    metrics: int

    async def until(self, what: str, ask: Callable[[], Any], *, seconds: float = 120.0) -> Any:
        """The first true answer."""
        try:
            async with asyncio.timeout(seconds):
                while not (answer := await asyncio.to_thread(ask)):
                    assert self.process.returncode is None, tail(self.log, lines=60)
                    await asyncio.sleep(0.1)
                return answer
        except TimeoutError:
            pytest.fail(f"{what}: not within {seconds:.0f} s; the log:\n{tail(self.log, lines=60)}")

    def requests(self) -> Iterator[tuple[str, str, str]]:
        """(verb, resource or kind, code) of every request, as its metrics tell."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        for labels in re.findall(r"^toolorchestra_operator_api_requests_total\{(.*)\}", text, flags=re.MULTILINE):
            found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            yield found["verb"], found["resource"], found["code"]


@asynccontextmanager
async def operator(plane: ControlPlane, manifests: list[Any], *, nats: str, log: Path) -> AsyncIterator[Running]:
    """With the Deployment's environment, as its service account."""
    template = of_kind(manifests, "Deployment", "operator")["spec"]["template"]
    user = f"system:serviceaccount:{NAMESPACE}:{template['spec']['serviceAccountName']}"
    health, metrics = free_port(), free_port()
    flags = ["--kubeconfig", plane.kubeconfig_of(user), "--nats-url", nats, "--host", "127.0.0.1"]
    flags += ["--health-port", health, "--metrics-port", metrics]
    paths = os.pathsep.join(str(CHECKOUT / part) for part in ("operator", "workers"))
    given = {**os.environ, **environment(template), "PYTHONPATH": paths, "HOME": str(log.parent)}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "toolorchestra_operator.runtime.main", *map(str, flags)),
            env=given,
            stdout=output,
            stderr=output,
        )
    try:
        yield Running(Api(plane.kubeconfig), plane, process, log, metrics)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0, tail(log, lines=40)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def live_through_everything(running: Running, namespace: str) -> None:
    """A pool with all that it can have; a training from its start to its end; what is lost is made again."""
    api, base = running.api, f"/api/v1/namespaces/{namespace}"

    def there(path: str) -> Any:
        try:
            return api.get(path)
        except Refused as error:
            if error.code != 404:
                raise
            return None

    def there_not(path: str) -> bool:
        return there(path) is None

    cache = {"type": "EphemeralClaim", "ephemeralClaim": {"size": "1Gi", "storageClassName": "fast"}}
    api.create(GROUP.format(namespace, "expertpools"), vllm_pool(cache=cache, model={"uri": "pvc://models/m"}))
    pool = GROUP.format(namespace, "expertpools/qwen")
    accepted = lambda: "ClaimNotFound" in str(api.get(pool).get("status"))  # noqa: E731
    await running.until("the claim is missed", accepted)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    api.create(f"{base}/persistentvolumeclaims", {"metadata": {"name": "models"}, "spec": claim})
    api.merge(pool, {"metadata": {"annotations": {"poke": "1"}}})
    servers = f"/apis/apps/v1/namespaces/{namespace}/deployments/qwen-vllm"
    await running.until("the pool's Deployment", lambda: there(servers))
    for path in (
        f"{base}/services/qwen-vllm",
        f"{base}/persistentvolumeclaims/qwen-cache",
        f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/qwen-vllm",
        f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/qwen-vllm",
    ):
        await running.until(path, lambda path=path: there(path))
    key = f"{base}/secrets/qwen-api-key"
    first = api.get(key)["metadata"]["uid"]
    api.merge(key, {"data": {"api-key": None}})
    api.merge(pool, {"spec": {"vllm": {"replicas": 2}}})
    await running.until("the key is made again", lambda: (there(key) or api.get(pool))["metadata"]["uid"] != first)
    await running.until("two replicas", lambda: api.get(servers)["spec"]["replicas"] == 2)

    training, *pools = yaml.safe_load_all((TINY_RUN / "training.yaml").read_text())
    for one in pools:
        one["spec"]["endpoint"]["probe"] = "None"
        api.create(GROUP.format(namespace, "expertpools"), one)
    training["spec"]["ray"] = {"provider": "Builtin"}
    api.create(GROUP.format(namespace, "orchestratortrainings"), training)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs/tiny-1-"
    workers = f"/apis/apps/v1/namespaces/{namespace}/deployments/tiny-workers"
    for path in (f"{jobs}head", f"{jobs}engines", workers, f"{base}/secrets/tiny-ray", f"{base}/services/tiny-1"):
        await running.until(path, lambda path=path: there(path))
    tiny = GROUP.format(namespace, "orchestratortrainings/tiny")
    api.merge(tiny, {"spec": {"suspend": True}})
    for path in (f"{jobs}head", workers, f"{base}/services/tiny-1", f"{base}/configmaps/tiny-1"):
        await running.until(f"not {path}", lambda path=path: there_not(path))
    api.delete(tiny)
    await running.until("the training is gone", lambda: there_not(tiny))
    assert there(f"{base}/persistentvolumeclaims/tiny-storage"), "its model stays"
    events = api.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
    assert {"qwen", "tiny"} <= {one["regarding"]["name"] for one in events}


def granted(manifests: list[Any]) -> set[tuple[str, str]]:
    """(resource.group, verb) of the operator's rules."""
    kinds = ("ClusterRole", "Role")
    rules = next(
        one["rules"] for one in manifests if one["kind"] in kinds and one["metadata"]["name"].endswith("operator")
    )
    found = set()
    for rule in rules:
        (group,) = rule["apiGroups"]
        for resource in rule["resources"]:
            found |= {(f"{resource}.{group}" if group else resource, verb) for verb in rule["verbs"]}
    return found


def used(running: Running, *, namespace: str, since: int, user: str) -> set[tuple[str, str]]:
    """The rights that its requests took: reads from its metrics, writes from the server's audit log."""
    plurals = {kind: (resource.plural, version) for (version, kind), resource in KINDS.items()}
    plurals |= {resource.plural: (resource.plural, version) for (version, _), resource in KINDS.items()}
    found = set()
    for verb, what, code in running.requests():
        if code == "200" and verb in ("get", "list", "watch") and what in plurals:
            plural, version = plurals[what]
            group = version.rpartition("/")[0]
            found.add((f"{plural}.{group}" if group else plural, verb))
    for write in running.plane.audit_log.writes(since=since, namespace=namespace):
        if write.user != user or not 200 <= write.code < 300:
            continue
        name, slash, part = write.resource.partition("/")
        plain, dot, group = name.partition(".")
        resource = f"{plain}{slash}{part}{dot}{group}"
        found.add((resource, write.verb))
        if write.verb == "patch" and write.code == 201:
            found.add((resource, "create"))  # an apply that makes the object takes both rights
    return found


IN_CLUSTER = """
import runpy, sys
from kubernetes import config
kubeconfig, *sys.argv = sys.argv[1:]
config.load_incluster_config = lambda: config.load_kube_config(kubeconfig)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


async def collects_garbage(api: Api, until: asyncio.subprocess.Process) -> None:
    """The garbage collector's part, which is not here: nothing is left that an owner in deletion has to wait for."""
    pool = GROUP.format(NAMESPACE, "expertpools/helm-test-0")
    while until.returncode is None:
        with contextlib.suppress(Refused):
            if "deletionTimestamp" in (await asyncio.to_thread(api.get, pool))["metadata"]:
                await asyncio.to_thread(api.merge, pool, {"metadata": {"finalizers": None}})
        await asyncio.sleep(0.2)


async def test_helm_tests_program_ends_well_with_the_rights_it_has(plane: ControlPlane, tmp_path: Path) -> None:
    """As the pod of `helm test` has it, without the simulator: a node is needed for more."""
    api, manifests = Api(plane.kubeconfig), render()
    made = [one for one in manifests if "rbac" in one["apiVersion"] or one["kind"] == "ServiceAccount"]
    for one in made:
        api.apply(path_of(one), one)
    pod = of_kind(manifests, "Pod", "test")
    for name, text in of_kind(manifests, "ConfigMap", "test")["data"].items():
        (tmp_path / name).write_text(text)
    user = f"system:serviceaccount:{NAMESPACE}:{pod['spec']['serviceAccountName']}"
    argv = [str(tmp_path / Path(part).name) for part in pod["spec"]["containers"][0]["command"][1:]]
    try:
        async with operator(plane, manifests, nats="nats://127.0.0.1:1", log=tmp_path / "operator.log"):
            test = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", IN_CLUSTER, str(plane.kubeconfig_of(user)), *argv),
                env={**os.environ, **environment(pod), "TIMEOUT_SECONDS": "60"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = (await asyncio.gather(test.communicate(), collects_garbage(api, test)))[0]
            assert test.returncode == 0, output.decode()
    finally:
        for one in made:
            api.delete(path_of(one))
    said = output.decode().splitlines()
    assert said[0] == "created ExpertPool helm-test-0"
    assert any(line.startswith("ExpertPool helm-test-0 Ready True") for line in said)
    assert said[-2:] == ["deleted ExpertPool helm-test-0", "PASSED"]


@pytest.mark.parametrize("mode", ["whole cluster", "some namespaces"])
async def test_rights_are_those_that_are_used(plane: ControlPlane, mode: str, tmp_path: Path) -> None:
    api = Api(plane.kubeconfig)
    everywhere = mode == "whole cluster"
    namespace = "team-a" if everywhere else "team-b"
    manifests = render({} if everywhere else {"watchNamespaces": [namespace]})
    made = [one for one in manifests if "rbac" in one["apiVersion"] or one["kind"] == "ServiceAccount"]
    for one in made:
        api.apply(path_of(one), one)
    account = of_kind(manifests, "ServiceAccount", "operator")["metadata"]["name"]
    user, since = f"system:serviceaccount:{NAMESPACE}:{account}", plane.audit_log.position()
    try:
        async with (
            NatsServer(directory=tmp_path / "nats") as nats,
            operator(plane, manifests, nats=nats.url, log=tmp_path / "operator.log") as running,
        ):
            await live_through_everything(running, namespace)
            refused = {(verb, what) for verb, what, code in running.requests() if code == "403"}
            took = used(running, namespace=namespace, since=since, user=user)
    finally:
        for one in made:
            api.delete(path_of(one))
    assert refused == (set() if everywhere else {("get", "StorageClass")}), "a storage class belongs to no namespace"
    rights = granted(manifests)
    assert took - rights == set()
    assert rights - took - BLOCKS_DELETION - OF_KUBERAY - OF_KUEUE == set(), "granted, and of no use"
