"""Alerts and dashboards name only metrics that exist: the operator's and the trainings' as the code writes them, vLLM's
as its source does; and with labels that these have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.chart import CHART, NAMESPACE, environment, of_kind, render
from support.cluster.training_templates import templates
from toolorchestra.telemetry import metrics
from toolorchestra.trainer.batch import MOST_K3
from toolorchestra_operator.runtime.metrics import Meter
from toolorchestra_operator.runtime.runtimes import runtime_of
from toolorchestra_operator.runtime.settings import Settings

pytestmark = pytest.mark.chart

ON = {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}}


def ours() -> set[str]:
    """Every series that the operator's /metrics can have."""
    meter = Meter()
    names = set()
    for family in meter.registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def of_trainings() -> dict[str, set[str]]:
    """Every series of a controller's /metrics, and its labels."""
    where = {"namespace", "training"}
    return {
        series: {*where, *instrument.labels, *(("le",) if series.endswith("_bucket") else ())}
        for instrument in metrics.CONTROLLER
        for series in instrument.series
    }


def check_trainings(expression: str) -> set[str]:
    """The series that it names; all of them, their labels and what it sums by exist."""
    known = of_trainings()
    named = set(re.findall(r"toolorchestra_\w+", expression))
    assert named <= known.keys(), expression
    for series, matchers in re.findall(r"(toolorchestra_\w+)\{(.*?)\}", expression):
        assert set(re.findall(r"(\w+)(?:=|!=|=~)\"", matchers)) <= known[series], expression
    labels = set().union(*(known[series] for series in named))
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert set(group.split(", ")) <= labels, expression
    return named


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def alerts() -> list[dict[str, Any]]:
    groups = of_kind(render(ON), "PrometheusRule")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rules_of(group: str) -> list[dict[str, Any]]:
    groups = {one["name"]: one["rules"] for one in of_kind(render(ON), "PrometheusRule")["spec"]["groups"]}
    return list(groups[f"toolorchestra-{group}"])


def test_alerts_are_written_for_people() -> None:
    rules = alerts()
    assert (
        len({rule["alert"] for rule in rules}) == len(rules) == len(rules_of("operator")) + len(rules_of("trainings"))
    )
    for rule in rules:
        assert {"summary", "description"} == rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_alerts_of_the_operator_are_about_its_metrics() -> None:
    known, rules = ours(), rules_of("operator")
    assert len(rules) >= 4
    for rule in rules:
        named = set(re.findall(r"toolorchestra_\w+", rule["expr"]))
        assert named <= known, rule["alert"]
        assert named or "up{" in rule["expr"]
        # The job is the Service's name, as the ServiceMonitor has it.
        jobs = set(re.findall(r'job="([^"]+)"', rule["expr"]))
        assert jobs == {of_kind(render(ON), "Service", "operator")["metadata"]["name"]}
        assert set(re.findall(r'namespace="([^"]+)"', rule["expr"])) == {NAMESPACE}


def test_alerts_of_trainings_say_which_training() -> None:
    rules = {rule["alert"]: rule for rule in rules_of("trainings")}
    wanted = {"NoProgress": "steps_total", "DeadLetters": "dead_letters_total", "ExpertOut": "expert_out"}
    wanted |= {"CostRate": "spend_usd", "SpendNearCap": "spend_cap_usd", "TrainerEngineMismatch": "train_mismatch_k3"}
    for alert, series in wanted.items():
        (rule,) = (one for name, one in rules.items() if name.endswith(alert))
        assert f"toolorchestra_{series}" in check_trainings(rule["expr"])
        assert "by (namespace, training" in rule["expr"]
        assert "{{ $labels.namespace }}/{{ $labels.training }}" in rule["annotations"]["summary"]
    assert len(rules) == len(wanted)
    assert rules["ToolOrchestraTrainerEngineMismatch"]["expr"].endswith(f" > {MOST_K3}")


@pytest.mark.parametrize(("dollars", "said"), [(None, "> 50"), (0.5, "> 0.5"), (0, None)])
def test_what_is_much_money_is_a_value(dollars: float | None, said: str | None) -> None:
    more = {} if dollars is None else {"usdPerHour": dollars}
    spec = of_kind(render({"monitoring": {"enabled": True, **more}}), "PrometheusRule")["spec"]
    found = [r["expr"] for g in spec["groups"] for r in g["rules"] if r["alert"] == "ToolOrchestraCostRate"]
    assert [one.endswith(said) for one in found] == [True] if said else not found


@pytest.mark.parametrize(("seconds", "window"), [(None, "30m"), (30, "30m"), (301, "31m"), (3600, "360m")])
def test_the_alert_waits_for_as_long_as_resyncs_take(seconds: int | None, window: str) -> None:
    settings = {} if seconds is None else {"resyncSeconds": seconds}
    groups = of_kind(render({**ON, "operator": {"settings": settings}}), "PrometheusRule")["spec"]["groups"]
    (rule,) = (one for one in groups[0]["rules"] if one["alert"] == "ToolOrchestraOperatorNotReconciling")
    assert f"[{window}]" in rule["expr"]
    assert f"in {window}." in rule["annotations"]["description"]


def test_resyncs_are_counted_from_zero() -> None:
    """A series that begins with the first success cannot tell that there was none."""
    assert Meter().registry.get_sample_value("toolorchestra_operator_resyncs_total", {"outcome": "done"}) == 0.0


def test_dashboards_show_metrics_that_exist() -> None:
    known = ours() | {"process_resident_memory_bytes", "process_cpu_seconds_total"} | of_trainings().keys()
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "v1/metrics/loggers.py").read_text()
    of_vllm = set(re.findall(r'"(vllm:\w+)"', source))
    for path in sorted((CHART / "files" / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        places = [panel["gridPos"] for panel in dashboard["panels"]]
        assert len({(place["x"], place["y"]) for place in places}) == len(places)
        assert all(len(panel["description"]) > 5 for panel in dashboard["panels"]), path.name
        variables = {one["name"] for one in dashboard["templating"]["list"]}
        assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"]))) <= variables, path.name
        for expression in expressions(dashboard):
            if path.name in ("training.json", "cost.json"):
                assert check_trainings(expression)
            assert set(re.findall(r"toolorchestra_\w+|process_\w+", expression)) <= known, path.name
            for name in re.findall(r"vllm:\w+", expression):
                assert name in of_vllm or re.sub(r"_(total|bucket|count|sum)$", "", name) in of_vllm, name


def test_everything_of_it_is_on_one_switch_and_is_found() -> None:
    kinds = {"ServiceMonitor": [""], "PodMonitor": ["pools", "trainings"], "PrometheusRule": [""]}
    assert not [one for one in render() if one["kind"] in kinds or "dashboard" in one["metadata"]["name"]]
    manifests = render(ON)
    for kind, names in kinds.items():
        for name in names:
            assert of_kind(manifests, kind, name)["metadata"]["labels"]["release"] == "prometheus"
    boards = [one for one in manifests if "dashboard" in one["metadata"]["name"]]
    assert len(boards) == len(list((CHART / "files" / "dashboards").glob("*.json"))) == 4
    for board in boards:
        assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
        (text,) = board["data"].values()
        assert json.loads(text)["uid"].startswith("toolorchestra-")
    monitor, service = of_kind(manifests, "ServiceMonitor")["spec"], of_kind(manifests, "Service", "operator")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_prometheus_is_let_in_from_its_namespace() -> None:
    manifests = render({"monitoring": {"enabled": True, "namespace": "monitoring"}})
    wanted = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    for name, port in (("operator", 8081), ("pool-metrics", 8000), ("training-metrics", 9464)):
        rule = of_kind(manifests, "NetworkPolicy", name)["spec"]["ingress"][0]
        assert (rule["from"], rule["ports"]) == (wanted, [{"port": port, "protocol": "TCP"}])
    assert "ingress" not in of_kind(render(), "NetworkPolicy", "operator")["spec"], "nobody"


@pytest.mark.parametrize("provider", ["builtin", "kuberay"])
def test_heads_listen_where_the_chart_looks(provider: str) -> None:
    """The setting, the head's labels and port, the policy and the PodMonitor are of one mind."""
    manifests = render(ON)
    template = of_kind(manifests, "Deployment", "operator")["spec"]["template"]
    port = runtime_of(Settings.read((), environment(template))).metrics_port
    head = templates(provider, metrics_port=port)["head"]
    labels = head["metadata"]["labels"]
    policy = of_kind(manifests, "NetworkPolicy", "training-metrics")["spec"]
    monitor = of_kind(manifests, "PodMonitor", "trainings")["spec"]
    for selector in (policy["podSelector"], monitor["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
        assert {one["key"] for one in selector["matchExpressions"]} <= labels.keys()
    assert policy["ingress"][0]["ports"] == [{"port": port, "protocol": "TCP"}]
    ports = {one["name"]: one["containerPort"] for one in head["spec"]["containers"][0]["ports"]}
    assert ports[monitor["podMetricsEndpoints"][0]["port"]] == port
    silent = of_kind(render(), "Deployment", "operator")["spec"]["template"]
    assert runtime_of(Settings.read((), environment(silent))).metrics_port is None
