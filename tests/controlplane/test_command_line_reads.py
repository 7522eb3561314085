"""Commands that change no training, on a real API server: status, plan, logs, get-model; and what they say of errors.

What the operator would write into status, the test writes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from support.cluster.command_line import RUNNING, TINY, Run, condition, path, play
from support.run_rig import orchestra
from testbed.api import Api
from testbed.cluster import Cluster
from toolorchestra.cluster_client.connection import connect
from toolorchestra.cluster_client.errors import NotServed, Unreachable
from toolorchestra.cluster_client.reader import manifest, reading
from toolorchestra.kube.kinds import TRAININGS, Kind

# ── status ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_is_a_table_and_one_in_detail(run: Run, api: Api, namespace: str) -> None:
    assert "no trainings in namespace" in run("status").stdout
    run("submit", "-f", TINY)
    assert run("status").stdout.splitlines()[1].split()[:3] == ["tiny", "Pending", "0/10"]
    metrics = {"reward": "0.5", "accuracy": "0.75", "usdPerTask": "0.01"}
    play(api, namespace, *RUNNING, step=3, progressPercentage=30, metrics=metrics, spentUSD="1.5")
    [head, row] = run("status").stdout.splitlines()
    assert head.split() == ["name", "status", "step", "reward", "accuracy", "$/task", "spent", "$", "age"]
    assert row.split()[:7] == ["tiny", "Running", "3/10", "0.5", "0.75", "0.01", "1.5"]
    lines = dict(line.split(maxsplit=1) for line in run("status", "tiny").stdout.splitlines() if line[0] != " ")
    assert lines["tiny"] == "Running"
    assert lines["step"] == "3 of 10 (30 %)"
    assert lines["spent"] == "$1.5"
    said = json.loads(run("status", "tiny", "-o", "json").stdout)
    assert (said["state"], said["step"], said["spentUSD"]) == ("Running", 3, "1.5")
    [row] = json.loads(run("status", "--json").stdout)
    assert row["name"] == "tiny"


def test_status_shows_what_happened_last(run: Run, api: Api, namespace: str) -> None:
    run("submit", "-f", TINY)
    uid = api.get(path(namespace))["metadata"]["uid"]
    about = {"kind": "OrchestratorTraining", "name": "tiny", "namespace": namespace, "uid": uid}
    event = {"reason": "Training", "message": "step 1", "type": "Normal", "involvedObject": about}
    event |= {"lastTimestamp": "2020-01-01T00:00:00Z", "metadata": {"name": "tiny.1"}}
    api.create(f"/api/v1/namespaces/{namespace}/events", event)
    assert "Training: step 1" in run("status", "tiny").stdout


def test_watching_ends_with_the_training(run: Run, api: Api, namespace: str) -> None:
    run("submit", "-f", TINY)
    failed = condition("Failed", "True", "BackoffLimitExceeded", "it failed 4 times")
    play(api, namespace, failed)
    assert "tiny: Failed: BackoffLimitExceeded: it failed 4 times" in run("status", "tiny", "-w", status=1).stdout


def test_a_name_that_is_not_there_has_near_ones(run: Run, cluster: Cluster, namespace: str) -> None:
    run("submit", "-f", TINY)
    said = run("status", "tinny", status=2).stderr
    assert f"there is no OrchestratorTraining tinny in namespace {namespace}; did you mean tiny?" in said
    elsewhere = orchestra("status", "tiny", "--kubeconfig", cluster.kubeconfig, "-n", "default", status=2).stderr
    assert f"(-n {namespace})" in elsewhere or "there is one in:" in elsewhere


# ── plan ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_plan_says_what_the_cluster_lacks_until_it_lacks_nothing(run: Run, api: Api, namespace: str) -> None:
    said = json.loads(run("plan", "-f", TINY, "-o", "json", status=1).stdout)
    missing = {line["about"]: line["remedy"] for line in said["lines"] if line["level"] == "missing"}
    assert set(missing) == {"PersistentVolumeClaim models", "operator", "volumes"}
    assert "helm install" in missing["operator"]
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    api.create(
        f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", {"metadata": {"name": "models"}, "spec": claim}
    )
    made = [_default_class(api, namespace), _operator(api, namespace)]
    try:
        assert run("plan", "-f", TINY).stdout.endswith("plan: nothing is missing\n")
    finally:
        for each in made:
            api.delete(each)


def _default_class(api: Api, namespace: str) -> str:
    name, collection = f"class-{namespace}"[:50].strip("-"), "/apis/storage.k8s.io/v1/storageclasses"
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    api.create(collection, {"metadata": {"name": name, "annotations": annotations}, "provisioner": "example.org/none"})
    return f"{collection}/{name}"


def _operator(api: Api, namespace: str) -> str:
    labels = {"app.kubernetes.io/part-of": "toolorchestra", "app.kubernetes.io/component": "operator"}
    env = [{"name": "TOOLORCHESTRA_OPERATOR_NATS_URL", "value": "nats://nats:4222"}]
    pod = {"containers": [{"name": "operator", "image": "operator", "env": env}]}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    collection = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    api.create(collection, {"metadata": {"name": "operator", "labels": labels}, "spec": spec})
    api.merge(f"{collection}/operator/status", {"status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}})
    return f"{collection}/operator"


def test_plan_takes_experts_that_are_there_already(run: Run, namespace: str, tmp_path: Path) -> None:
    [training, *pools] = yaml.safe_load_all(TINY.read_text())
    alone, rest = tmp_path / "training.yaml", tmp_path / "pools.yaml"
    alone.write_text(yaml.safe_dump(training))
    rest.write_text(yaml.safe_dump_all(pools))
    assert "no ExpertPool named small" in run("plan", "-f", alone, status=1).stdout
    run("submit", "-f", rest)
    assert "ExpertPool named" not in run("plan", "-f", alone, status=1).stdout


def test_plan_tries_what_submit_would_do(run: Run, api: Api, namespace: str, tmp_path: Path) -> None:
    run("submit", "-f", TINY)
    changed = tmp_path / "changed.yaml"
    changed.write_text(TINY.read_text().replace("steps: 10", "steps: 11"))
    said = run("plan", "-f", changed, status=1).stdout
    assert "MISSING  refused    OrchestratorTraining/tiny: cannot patch" in said
    assert api.get(path(namespace))["spec"]["algorithm"]["steps"] == 10


# ── errors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_one_may_not_do_names_verb_and_resource(cluster: Cluster, namespace: str) -> None:
    nobody = ("--kubeconfig", cluster.own.kubeconfig_of("nobody"), "-n", namespace)
    said = orchestra("status", *nobody, status=1).stderr
    assert f"not allowed to list orchestratortrainings.toolorchestra.dev in namespace {namespace}" in said
    assert "verb list on resource orchestratortrainings.toolorchestra.dev" in said
    assert (
        "not allowed to patch expertpools.toolorchestra.dev small"
        in orchestra("submit", "-f", TINY, *nobody, status=1).stderr
    )
    lines = json.loads(orchestra("plan", "-f", TINY, *nobody, "-o", "json", status=1).stdout)["lines"]
    [rights] = [line for line in lines if line["about"] == "rights"]
    assert rights["level"] == "missing"
    assert f"kubectl create role orchestra -n {namespace} --verb=create,patch,get,list" in rights["remedy"]
    assert {line["level"] for line in lines if line["about"] in ("namespace", "operator")} == {"unknown"}


def test_a_kind_that_is_not_served(cluster: Cluster) -> None:
    kube = connect(kubeconfig=cluster.kubeconfig)
    absent = Kind("absent.toolorchestra.dev/v1", "Thing", "things")
    assert not kube.serves(absent)
    with pytest.raises(NotServed, match="kubectl apply --server-side -f crds/"):
        kube.list(absent, namespace="default")
    assert kube.find(absent, "a", namespace="default") is None


# ── logs, get-model: as far as they go without a kubelet ───────────────────────────────────────────────────────────


def test_logs_say_which_pods_there_are(run: Run, api: Api, namespace: str) -> None:
    run("submit", "-f", TINY)
    said = run("logs", "tiny", status=2).stderr
    assert "there is no head's pod of tiny" in said
    assert "PersistentVolumeClaim tiny-storage, folder tiny-" in said
    _account(api, namespace)
    labels = {"toolorchestra.dev/training": "tiny", "app.kubernetes.io/component": "trainers"}
    pod = {"metadata": {"name": "tiny-1-trainers-0", "labels": labels}, "spec": {"containers": [CONTAINER]}}
    api.create(f"/api/v1/namespaces/{namespace}/pods", pod)
    assert "tiny-1-trainers-0 " in run("logs", "tiny", "--role", "engine", status=2).stderr
    assert "tiny-1-trainers-0 has no log yet: Pending" in run("logs", "tiny", "--role", "trainer").stderr
    assert "has no log yet" in run("logs", "tiny", "tiny-1-trainers-0", "-n", "3").stderr


CONTAINER = {"name": "trainers", "image": "none"}


def _account(api: Api, namespace: str) -> None:
    """What a controller makes in every namespace; no pod is admitted without it."""
    api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "default"}})


def test_the_pod_that_reads_is_restricted_needs_few_rights_and_is_gone_in_the_end(
    run: Run, api: Api, cluster: Cluster, namespace: str
) -> None:
    run("submit", "-f", TINY)
    _account(api, namespace)
    api.merge(
        f"/api/v1/namespaces/{namespace}",
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
    )
    user = f"reader-{namespace}"[:60].strip("-")
    rbac, group = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}", "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": ["toolorchestra.dev"], "resources": ["orchestratortrainings"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "delete"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
    ]
    api.create(f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": rules})
    subject = {"kind": "User", "name": user, "apiGroup": group}
    role = {"apiGroup": group, "kind": "Role", "name": "reader"}
    api.create(f"{rbac}/rolebindings", {"metadata": {"name": "reader"}, "roleRef": role, "subjects": [subject]})
    kubeconfig = cluster.own.kubeconfig_of(user)
    where = ("--kubeconfig", kubeconfig, "-n", namespace, "--to", kubeconfig.parent / "absent")
    assert "give --image" in orchestra("get-model", "tiny", *where, status=2).stderr
    kube = connect(kubeconfig=kubeconfig, namespace=namespace)
    training = kube.get(TRAININGS, "tiny", namespace=namespace)
    pod = manifest(training, claim="tiny-storage", image="none", template={})
    with pytest.raises(Unreachable, match="does not run"), reading(kube, pod, say=print, seconds=0.1, poll=0.01):
        pytest.fail("nothing runs it")
    assert api.get(f"/api/v1/namespaces/{namespace}/pods")["items"] == []


def test_where_the_model_goes_must_be_free(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    assert "exists already" in run("get-model", "tiny", "--to", tmp_path, status=2).stderr
    assert "no target folder given" in run("get-model", "tiny", status=2).stderr
