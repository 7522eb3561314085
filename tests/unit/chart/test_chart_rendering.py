"""What the chart makes of its values: identities, restrictions, settings that the programs accept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import (
    CHART,
    DIGEST,
    EVERYTHING,
    MATRIX,
    NAMESPACE,
    Refused,
    environment,
    of_kind,
    pod_templates,
    render,
)
from testbed.cluster import CHECKOUT
from toolorchestra.api.load import load
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra_operator.planning.container_resources import DefaultResources
from toolorchestra_operator.runtime.parents import OURS
from toolorchestra_operator.runtime.settings import Settings

pytestmark = pytest.mark.chart
matrix = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)


@matrix
def test_every_object_is_labelled_has_its_own_identity_and_a_namespace(values: Mapping[str, Any]) -> None:
    manifests = render(values)
    identities = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in manifests]
    assert len(identities) == len(set(identities))
    for one in manifests:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "rel"
        assert labels["app.kubernetes.io/part-of"] == "toolorchestra"
        # What is the operator's own to look after is told by this label: nothing of the chart's is.
        label, _, value = OURS.partition("=")
        assert labels[label] != value
        in_cluster = one["kind"] in ("CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding")
        assert in_cluster == ("namespace" not in one["metadata"])
        assert len(one["metadata"]["name"]) <= 63


@matrix
def test_every_pod_is_restricted(values: Mapping[str, Any]) -> None:
    for name, template in pod_templates(render(values)):
        spec = template["spec"]
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod["runAsUser"] > 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        token = name.endswith(("operator", "test"))
        assert spec["automountServiceAccountToken"] is token, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
            assert "memory" in container["resources"]["limits"]
        assert all({"emptyDir", "configMap"} & volume.keys() for volume in spec["volumes"])


@matrix
def test_selectors_match_their_pods_and_services(values: Mapping[str, Any]) -> None:
    manifests = render(values)
    pods = {name: template["metadata"]["labels"] for name, template in pod_templates(manifests)}
    for one in manifests:
        if one["kind"] in ("Deployment", "StatefulSet"):
            own = pods[one["metadata"]["name"]]
            assert one["spec"]["selector"]["matchLabels"].items() <= own.items()
            # A chart of another version rolls nothing by its labels.
            assert "helm.sh/chart" not in own
        if one["kind"] == "Service":
            selected = [name for name, labels in pods.items() if one["spec"]["selector"].items() <= labels.items()]
            assert len(selected) == 1, one["metadata"]["name"]
            ports = next(t for n, t in pod_templates(manifests) if n == selected[0])["spec"]["containers"][0]["ports"]
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= {port["name"] for port in ports}


@matrix
def test_the_operator_obeys_its_environment(values: Mapping[str, Any]) -> None:
    manifests = render(values)
    template = of_kind(manifests, "Deployment", "operator")["spec"]["template"]
    given = environment(template)
    settings = Settings.read((), given)
    named = {name for name in given if name.startswith("TOOLORCHESTRA_OPERATOR_")}
    assert named <= {"TOOLORCHESTRA_OPERATOR_" + field.upper() for field in Settings.model_fields}
    assert settings.watch_namespaces == tuple(values.get("watchNamespaces", ()))
    assert settings.image_pull_secrets == tuple(values.get("imagePullSecrets", ()))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["defaultResources"] | values.get(
        "defaultResources", {}
    )
    assert settings.default_resources == DefaultResources.model_validate(defaults)
    assert settings.privileged_namespaces == tuple(values.get("privilegedNamespaces", ()))
    assert (settings.health_port, settings.metrics_port) == (8080, 8081)
    assert settings.host == "0.0.0.0"
    assert len({one["name"] for one in template["spec"]["containers"][0]["env"]}) == len(
        template["spec"]["containers"][0]["env"]
    )


def test_settings_images_and_messaging_come_from_the_values() -> None:
    template = of_kind(render(EVERYTHING), "Deployment", "operator")["spec"]["template"]
    settings = Settings.read((), environment(template))
    assert (settings.workers, settings.resync_seconds, settings.watch_seconds, settings.cpu_threads) == (
        8,
        120.5,
        60,
        2,
    )
    assert settings.worker_image == f"registry.example:5000/team/w@{DIGEST}"
    assert settings.gpu_image == settings.pool_gpu_image == "registry.example:5000/team/g:12"
    assert settings.cpu_image == settings.pool_cpu_image == "registry.example:5000/team/toolorchestra-cpu:0.1.0"
    assert settings.nats_url == f"nats://rel-toolorchestra-nats.{NAMESPACE}.svc:4222"
    assert settings.stream_replicas == 3, "as many as there are servers"
    assert settings.otlp_endpoint == "http://collector.observability:4318"
    assert template["spec"]["containers"][0]["image"] == "registry.example:5000/team/toolorchestra-operator:0.1.0"


def test_outside_nats_is_named_by_url_or_secret() -> None:
    outside = environment(of_kind(render(MATRIX["outside NATS"]), "Deployment", "operator")["spec"]["template"])
    settings = Settings.read((), outside)
    assert (settings.nats_url, settings.stream_replicas) == ("nats://a:4222,nats://b:4222", 3)
    manifests = render(MATRIX["NATS of a Secret"])
    assert not [one for one in manifests if one["kind"] == "StatefulSet"]
    variables = of_kind(manifests, "Deployment", "operator")["spec"]["template"]["spec"]["containers"][0]["env"]
    (url,) = (one for one in variables if one["name"] == "TOOLORCHESTRA_OPERATOR_NATS_URL")
    assert url["valueFrom"] == {"secretKeyRef": {"name": "nats", "key": "url"}}


def test_proxies_never_stand_before_the_api_server_and_certificates_are_mounted() -> None:
    template = of_kind(render(EVERYTHING), "Deployment", "operator")["spec"]["template"]
    given = environment(template)
    assert given["HTTPS_PROXY"] == given["https_proxy"] == given["http_proxy"] == "http://proxy:3128"
    direct = given["NO_PROXY"].split(",")
    assert given["no_proxy"] == given["NO_PROXY"]
    assert {"$(KUBERNETES_SERVICE_HOST)", ".svc", "10.0.0.0/8"} <= set(direct)
    (mount,) = (m for m in template["spec"]["containers"][0]["volumeMounts"] if m["name"] == "ca")
    assert given["SSL_CERT_FILE"] == f"{mount['mountPath']}/ca.crt"
    (volume,) = (v for v in template["spec"]["volumes"] if v["name"] == "ca")
    assert volume["configMap"] == {"name": "trust", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    assert (
        not {"HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE"}
        & environment(of_kind(render(), "Deployment", "operator")["spec"]["template"]).keys()
    )


def test_every_pod_pulls_with_the_secrets() -> None:
    for name, template in pod_templates(render(EVERYTHING)):
        assert template["spec"]["imagePullSecrets"] == [{"name": "pull-a"}, {"name": "pull-b"}], name


# ── the custom resource definitions ────────────────────────────────────────────────────────────────────────────────


def crds(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(directory.glob("*.yaml"))}


def test_the_charts_definitions_are_the_projects() -> None:
    assert crds(CHART / "files" / "crds") == crds(CHECKOUT / "crds"), "`make crds` copies them"


@pytest.mark.parametrize("keep", [True, False])
def test_definitions_are_rendered_unchanged_but_for_their_metadata(keep: bool) -> None:
    rendered = [one for one in render({"crds": {"keep": keep}}) if one["kind"] == "CustomResourceDefinition"]
    wanted = [yaml.safe_load(text) for text in crds(CHECKOUT / "crds").values()]
    assert [one["spec"] for one in rendered] == [one["spec"] for one in wanted]
    assert [one["metadata"]["name"] for one in rendered] == [one["metadata"]["name"] for one in wanted]
    annotations = {"helm.sh/resource-policy": "keep"} if keep else None
    assert all(one["metadata"].get("annotations") == annotations for one in rendered)


def test_definitions_may_be_somebody_elses() -> None:
    assert not [one for one in render(MATRIX["least"]) if one["kind"] == "CustomResourceDefinition"]


# ── values ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"operater": {}}, "operater"),
        ({"operator": {"replicas": 2}}, "replicas"),
        ({"operator": {"settings": {"worker": 3}}}, "worker"),
        ({"operator": {"settings": {"workers": 0}}}, "workers"),
        ({"images": {"worker": {"repository": "w", "digest": "sha256:1"}}}, "digest"),
        ({"nats": {"replicas": 2}}, "replicas"),
        ({"nats": {"storage": {"sise": "1Gi"}}}, "sise"),
        ({"nats": {"url": "http://nats"}}, "url"),
        ({"simulator": {"skills": {"experts": []}}}, "experts"),
        ({"watchNamespaces": "team-a"}, "watchNamespaces"),
        ({"crds": {"keep": "yes"}}, "keep"),
        ({"test": {"model": "Qwen/Qwen3-0.6B"}}, "model"),
        ({"nats": {"url": "nats://x:4222"}}, "nats.enabled=false"),
        ({"nats": {"enabled": False, "url": "nats://x", "urlSecret": {"name": "y"}}}, "exclude"),
        ({"nats": {"enabled": False, "url": "nats://user:password@x:4222"}}, "nats.urlSecret"),
        ({"operator": {"serviceAccount": {"create": False}}}, "serviceAccount.name"),
        ({"imageRegistry": "https://registry.example/team"}, "imageRegistry"),
        ({"defaultResources": {"head": {"requests": {"cpu": "abc"}}}}, "/defaultResources/head/requests/cpu"),
        ({"operator": {"resources": {"limits": {"memory": "1GB"}}}}, "/operator/resources/limits/memory"),
        ({"proxy": {"https": "proxy:3128"}}, "/proxy/https"),
    ],
)
def test_mistakes_are_refused_with_their_place(values: Mapping[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=re.escape(said)):
        render(values)


def paths(value: Any, at: tuple[str, ...] = ()) -> set[str]:
    if isinstance(value, dict) and value:
        return {path for key, part in value.items() for path in paths(part, (*at, key))}
    return {".".join(at)}


def test_the_schema_is_closed_and_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(part: Mapping[str, Any], at: str) -> set[str]:
        found = set()
        for name, inner in part.get("properties", {}).items():
            assert inner.get("type") or inner.get("enum"), f"{at}{name}"
            if "properties" in inner:
                assert inner["additionalProperties"] is False, f"{at}{name}"
                found |= walk(inner, f"{at}{name}.")
            else:
                found.add(f"{at}{name}")
        return found

    assert schema["additionalProperties"] is False
    known = walk(schema, "")
    given = paths(yaml.safe_load((CHART / "values.yaml").read_text()))
    assert not [
        path
        for path in given
        if not any(path == one or path.startswith(f"{one}.") for one in (*known, "x"))
        and not any(one.startswith(f"{path}.") for one in known)
    ]
    settings = schema["properties"]["operator"]["properties"]["settings"]["properties"]
    fields = {re.sub(r"([A-Z])", r"_\1", name).lower() for name in settings}
    assert fields <= Settings.model_fields.keys()


def test_the_values_table_of_the_docs_is_whole() -> None:
    text = (CHECKOUT / "docs" / "install.md").read_text()
    tables = set(re.findall(r"^\| `([a-zA-Z.]+)`", text, flags=re.MULTILINE))
    given = paths(yaml.safe_load((CHART / "values.yaml").read_text()))
    missing = [path for path in given if not any(path == row or path.startswith(f"{row}.") for row in tables)]
    assert not missing
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert {row.partition(".")[0] for row in tables} <= schema["properties"].keys()


@pytest.mark.parametrize("nothing", [None, {"head": None, "pools": {"limits": None}}])
def test_no_default_resources_are_none(nothing: Any) -> None:
    settings = Settings.read(
        (), environment(of_kind(render({"defaultResources": nothing}), "Deployment", "operator")["spec"]["template"])
    )
    assert settings.default_resources.head == DefaultResources().head


# ── parts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["defaults", "everything", "long names"])
def test_nats_server_takes_its_configuration(name: str, tmp_path: Path) -> None:
    manifests = render(MATRIX[name])
    config = of_kind(manifests, "ConfigMap", "nats")["data"]["nats.conf"]
    path = tmp_path / "nats.conf"
    path.write_text(config.replace("/data", str(tmp_path)))
    server = Path(sys.executable).with_name("nats-server")
    environment = {"POD_NAME": "nats-0", "PATH": "/usr/bin"}
    done = subprocess.run([server, "-t", "-c", path], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stateful = of_kind(manifests, "StatefulSet")
    routes = re.findall(r"nats://([^.]+)\.([^.]+)\.", config)
    replicas = stateful["spec"]["replicas"]
    wanted = [(f"{stateful['metadata']['name']}-{i}", stateful["spec"]["serviceName"]) for i in range(replicas)]
    assert routes == (wanted if replicas > 1 else [])


def test_the_simulators_table_is_one(tmp_path: Path) -> None:
    manifests = render({"simulator": {"enabled": True}})
    skills = of_kind(manifests, "ConfigMap", "skills")["data"]["skills.yaml"]
    path = tmp_path / "skills.yaml"
    path.write_text(skills)
    (table,) = load(path, resolve=False).skill_tables
    assert [expert.name for expert in table.spec.experts] == ["small", "large"]
    service = of_kind(manifests, "Service", "simulator")
    assert (service["metadata"]["name"], service["spec"]["ports"][0]["port"]) == ("simulator", 80)
    container = of_kind(manifests, "Deployment", "simulator")["spec"]["template"]["spec"]["containers"][0]
    given = {"/etc/simulator/skills.yaml": str(path), "8000": "0", "0.0.0.0": "127.0.0.1"}
    program, *flags = [given.get(part, part) for part in container["command"]]
    server = subprocess.Popen([Path(sys.executable).with_name(program), *flags], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server:
        url = server.stdout.readline().split()[1]
        health = url.removesuffix("/v1") + container["readinessProbe"]["httpGet"]["path"]
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(health, timeout=10) as answer:
            assert answer.status == 200
        server.terminate()
    assert server.returncode == 0


@pytest.mark.parametrize("simulator", [True, False])
def test_what_helm_test_applies_is_valid_and_leaves_nothing(simulator: bool) -> None:
    manifests = render({"simulator": {"enabled": simulator}})
    data = of_kind(manifests, "ConfigMap", "test")["data"]
    wanted = json.loads(data["resources.json"])
    pools = [ExpertPool.model_validate(one) for one in wanted if one["kind"] == "ExpertPool"]
    trainings = [OrchestratorTraining.model_validate(one) for one in wanted if one["kind"] == "OrchestratorTraining"]
    assert all(pool.spec.simulated for pool in pools)
    assert len(trainings) == (1 if simulator else 0)
    for training in trainings:
        assert training.spec.tools.experts.names == tuple(pool.metadata.name for pool in pools)
        assert training.spec.storage.retention_policy == "Delete"
    compile(data["run.py"], "run.py", "exec")
    for one in manifests:
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "test":
            hook = one["metadata"]["annotations"]
            assert hook["helm.sh/hook"] == "test"
            assert "hook-succeeded" in hook["helm.sh/hook-delete-policy"], "uninstalling does not know of hooks"


def test_the_test_runs_where_the_operator_looks() -> None:
    assert of_kind(render(), "Role", "test")["metadata"]["namespace"] == NAMESPACE
    assert of_kind(render({"watchNamespaces": ["a", "b"]}), "Role", "test")["metadata"]["namespace"] == "a"
    assert of_kind(render({"test": {"namespace": "c"}}), "Role", "test")["metadata"]["namespace"] == "c"
