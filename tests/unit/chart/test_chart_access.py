"""Who may do what under the chart: network policies, the hosts and Secrets of pools, rights on the API server."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

import pytest

from support.chart import EVERYTHING, MATRIX, NAMESPACE, environment, of_kind, render
from support.cluster.pool_world import PoolWorld, vllm_pool
from toolorchestra_operator.planning.plan import Apply
from toolorchestra_operator.pools.reach import Reach
from toolorchestra_operator.runtime.settings import Settings

pytestmark = pytest.mark.chart


# ── network policies ───────────────────────────────────────────────────────────────────────────────────────────────


def test_which_hosts_and_secrets_pools_may_name_comes_from_the_values() -> None:
    def settings(values: Mapping[str, Any]) -> Settings:
        return Settings.read((), environment(of_kind(render(values), "Deployment", "operator")["spec"]["template"]))

    assert (settings({}).allowed_hosts, settings({}).secrets_need_label) == (("*",), True)
    assert settings({"pools": {"allowedHosts": []}}).allowed_hosts == ()
    everything = settings(EVERYTHING)
    assert everything.allowed_hosts[:3] == ("api.example", "*.svc", "10.8.0.0/16")
    assert not everything.secrets_need_label
    simulators = Reach(everything.allowed_hosts[3:])
    for host in ("simulator", f"simulator.{NAMESPACE}.svc", f"simulator.{NAMESPACE}.svc.cluster.local"):
        assert simulators.refuses(host) is None, "the chart's own simulator has a private address"


def reaches(policy: Mapping[str, Any], address: str, port: int, *, pod: bool = False, protocol: str = "TCP") -> bool:
    """What the egress rules of a policy say about an address, of a pod or not."""
    at = ipaddress.ip_address(address)

    def leads_there(peer: Mapping[str, Any]) -> bool:
        if not peer:
            return True
        if peer == {"namespaceSelector": {}}:
            return pod
        block = peer["ipBlock"]
        excepted = any(at in ipaddress.ip_network(one) for one in block.get("except", ()))
        return at in ipaddress.ip_network(block["cidr"]) and not excepted

    return any(
        {"port": port, "protocol": protocol} in rule["ports"]
        and ("to" not in rule or any(map(leads_there, rule["to"])))
        for rule in policy["spec"]["egress"]
    )


def test_the_operator_reaches_what_it_has_to_and_no_metadata() -> None:
    policy = of_kind(render({}), "NetworkPolicy", "operator")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert reaches(policy, "10.96.0.10", 53, protocol="UDP")
    assert reaches(policy, "169.254.20.10", 53, protocol="UDP"), "a cache on the node"
    assert reaches(policy, "192.168.1.2", 6443)
    assert reaches(policy, "10.88.0.7", 8000, pod=True)
    assert reaches(policy, "10.88.0.8", 4222, pod=True)
    assert reaches(policy, "93.184.216.34", 443)
    assert reaches(policy, "2606:4700::1111", 443)
    for port in (80, 443, 8000):
        for metadata in ("169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1"):
            assert not reaches(policy, metadata, port)
    for port in (22, 2379, 6379, 10250):
        assert not reaches(policy, "10.88.0.9", port, pod=True)
    given = of_kind(render(EVERYTHING), "NetworkPolicy", "operator")
    assert [reaches(given, "93.184.216.34", port) for port in (443, 9000, 3128, 4318, 16443, 80)] == [True] * 5 + [
        False
    ]
    outside = of_kind(render({"nats": {"enabled": False, "url": "nats://a:4223"}}), "NetworkPolicy", "operator")
    assert reaches(outside, "10.0.0.1", 4223)
    off = of_kind(render({"networkPolicy": {"egress": {"enabled": False}}}), "NetworkPolicy", "operator")
    assert off["spec"]["policyTypes"] == ["Ingress"]
    assert "egress" not in off["spec"]


def test_pools_let_the_operator_in() -> None:
    """The operator's own policies go by labels that the chart gives."""
    world = PoolWorld(vllm_pool())
    plan = world.plan()
    (policy,) = (a.manifest for a in plan.actions if isinstance(a, Apply) and a.manifest["kind"] == "NetworkPolicy")
    labels = of_kind(render(), "Deployment", "operator")["spec"]["template"]["metadata"]["labels"]
    peers = policy["spec"]["ingress"][0]["from"]
    assert any(peer["podSelector"].get("matchLabels", {"": ""}).items() <= labels.items() for peer in peers)


def test_trainings_reach_nats_and_the_simulator_and_one_another() -> None:
    manifests = render({"simulator": {"enabled": True}, "networkPolicy": {"namespaces": ["team-a", "team-b"]}})
    policies = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["spec"]
        for one in manifests
        if one["kind"] == "NetworkPolicy"
    }
    for name, port in (("rel-toolorchestra-nats", 4222), ("simulator", 8000)):
        rule = policies[NAMESPACE, name]["ingress"][0]
        assert rule["ports"] == [{"port": port, "protocol": "TCP"}]
        assert rule["from"] == [
            {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "toolorchestra"}}, "namespaceSelector": {}}
        ]
    for namespace in ("team-a", "team-b"):
        among = policies[namespace, "rel-toolorchestra-trainings"]
        assert among["ingress"][0]["from"] == [{"podSelector": among["podSelector"]}]
        assert "ports" not in among["ingress"][0], "torch and Ray choose theirs"


# ── rights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rights_are_the_same_in_some_namespaces_but_for_what_has_none() -> None:
    cluster = of_kind(render(), "ClusterRole")["rules"]
    manifests = render(MATRIX["some namespaces"])
    assert not [one for one in manifests if one["kind"].startswith("ClusterRole")]
    roles = [one for one in manifests if one["kind"] == "Role" and one["metadata"]["name"].endswith("operator")]
    assert [one["metadata"]["namespace"] for one in roles] == ["team-a", "team-b"]
    for role in roles:
        assert [rule for rule in cluster if rule not in role["rules"]] == [
            {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get"]}
        ]
        assert [rule for rule in role["rules"] if rule not in cluster] == []
    bindings = [
        one for one in manifests if one["kind"] == "RoleBinding" and one["metadata"]["name"].endswith("operator")
    ]
    (subject,) = {json.dumps(one["subjects"]) for one in bindings}
    account = of_kind(manifests, "ServiceAccount", "operator")["metadata"]
    assert json.loads(subject) == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]


def test_no_right_is_a_way_to_more() -> None:
    rules = of_kind(render(), "ClusterRole")["rules"]
    granted = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert not [one for one in granted if "*" in one]
    assert {verb for resource, verb in granted if resource == "secrets"} == {"get", "create", "delete"}
    assert not {"roles", "rolebindings", "clusterroles", "serviceaccounts", "nodes", "pods/exec"} & {
        r for r, _ in granted
    }
    assert ("persistentvolumeclaims", "delete") not in granted, "a model outlives its training"
