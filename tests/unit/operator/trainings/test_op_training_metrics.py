"""Where a training's metrics go on a cluster: what its pods are told, and that a running attempt is left as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.cluster import kuberay_world, training_world
from support.cluster.training_templates import templates
from toolorchestra.telemetry.metrics_setup import MetricsPlan
from toolorchestra_operator.runtime.runtimes import runtime_of
from toolorchestra_operator.runtime.settings import Settings

COLLECTOR = "http://collector:4318"


def container(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = template["spec"]["containers"][0]
    return found


def variables(template: dict[str, Any]) -> dict[str, str]:
    """As the pod at 10.0.0.7 gets them."""
    listed = container(template)["env"]
    assert len({one["name"] for one in listed}) == len(listed)
    return {one["name"]: "10.0.0.7" if "status.podIP" in str(one) else one.get("value", "") for one in listed}


@pytest.mark.parametrize("provider", ["builtin", "kuberay"])
def test_the_head_alone_listens_where_somebody_scrapes(provider: str) -> None:
    found = templates(provider, metrics_port=9464)
    plan = MetricsPlan.parse(variables(found["head"]), scraped=True)
    assert (plan.exporters, plan.host, plan.port) == (("prometheus",), "10.0.0.7", 9464)
    ports = {port["name"]: port["containerPort"] for port in container(found["head"])["ports"]}
    assert ports["run-metrics"] == 9464
    assert "metrics" not in ports, "KubeRay's, with Ray's own figures"
    for component in ("trainers", "engines", "workers"):
        assert not {name for name in variables(found[component]) if "METRIC" in name or "PROMETHEUS" in name}
        assert "run-metrics" not in str(container(found[component]).get("ports"))


@pytest.mark.parametrize("provider", ["builtin", "kuberay"])
def test_a_collector_gets_the_metrics_of_all(provider: str) -> None:
    found = templates(provider, otlp_endpoint=COLLECTOR, metrics_port=9464)
    for component, template in found.items():
        given = variables(template)
        plan = MetricsPlan.parse(given, scraped=component == "head")
        assert plan.exporters == (("otlp", "prometheus") if component == "head" else ("otlp",))
        assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == COLLECTOR
        assert "toolorchestra.training.name=tiny" in given["OTEL_RESOURCE_ATTRIBUTES"]


@pytest.mark.parametrize("provider", ["builtin", "kuberay"])
def test_nothing_is_exported_where_nobody_asked(provider: str) -> None:
    for template in templates(provider).values():
        assert "OTEL_METRICS_EXPORTER" not in variables(template)
        assert "run-metrics" not in str(container(template).get("ports"))


@pytest.mark.parametrize("world", [training_world.World, kuberay_world.World], ids=["builtin", "kuberay"])
def test_an_operator_that_begins_to_scrape_rolls_nothing_that_runs(world: Any) -> None:
    one = world()
    one.settle()
    one.runtime = replace(one.runtime, metrics_port=9464, otlp_endpoint=COLLECTOR)
    assert one.plan().empty


def test_the_setting_is_the_charts_port() -> None:
    environ = {"TOOLORCHESTRA_OPERATOR_TRAINING_METRICS_PORT": "9464"}
    assert runtime_of(Settings.read((), environ)).metrics_port == 9464
    assert runtime_of(Settings.read((), {})).metrics_port is None
