"""Alerts and dashboards name only metrics that exist: ours as the operator writes them, vLLM's as its source does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.chart import CHART, NAMESPACE, of_kind, render
from toolorchestra_operator.metrics import Meter

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


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def alerts() -> list[dict[str, Any]]:
    groups = of_kind(render(ON), "PrometheusRule")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_are_about_metrics_of_the_operator() -> None:
    known, rules = ours(), alerts()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 4
    for rule in rules:
        named = set(re.findall(r"toolorchestra_\w+", rule["expr"]))
        assert named <= known, rule["alert"]
        assert named or "up{" in rule["expr"]
        # The job is the Service's name, as the ServiceMonitor has it.
        jobs = set(re.findall(r'job="([^"]+)"', rule["expr"]))
        assert jobs == {of_kind(render(ON), "Service", "operator")["metadata"]["name"]}
        assert set(re.findall(r'namespace="([^"]+)"', rule["expr"])) == {NAMESPACE}
        assert {"summary", "description"} == rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("critical", "warning")


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
    known = ours() | {"process_resident_memory_bytes", "process_cpu_seconds_total"}
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
            assert set(re.findall(r"toolorchestra_\w+|process_\w+", expression)) <= known, path.name
            for name in re.findall(r"vllm:\w+", expression):
                assert name in of_vllm or re.sub(r"_(total|bucket|count|sum)$", "", name) in of_vllm, name


def test_everything_of_it_is_on_one_switch_and_is_found() -> None:
    kinds = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
    assert not [one for one in render() if one["kind"] in kinds or "dashboard" in one["metadata"]["name"]]
    manifests = render(ON)
    for kind in kinds:
        assert of_kind(manifests, kind)["metadata"]["labels"]["release"] == "prometheus"
    boards = [one for one in manifests if "dashboard" in one["metadata"]["name"]]
    assert len(boards) == len(list((CHART / "files" / "dashboards").glob("*.json"))) == 2
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
    for name, port in (("operator", 8081), ("pool-metrics", 8000)):
        rule = of_kind(manifests, "NetworkPolicy", name)["spec"]["ingress"][0]
        assert (rule["from"], rule["ports"]) == (wanted, [{"port": port, "protocol": "TCP"}])
    assert "ingress" not in of_kind(render(), "NetworkPolicy", "operator")["spec"], "nobody"
