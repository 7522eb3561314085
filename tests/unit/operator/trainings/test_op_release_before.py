"""Two releases in one attempt: what the operator of the release before made meets this operator, and this image.

`helm upgrade` replaces the operator while attempts run: their templates, configuration and progress are the old ones.
And a training may name an image of its own, which is older or newer than the operator.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from support.cluster import kuberay_world, training_world
from support.cluster.apply_model import ApplyModel
from support.cluster.openapi_excerpt import schemas
from toolorchestra.cli.main import app
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.plan import Apply, Create, Delete

FIXTURES = Path(__file__).parents[3] / "fixtures" / "release-before"
PROVIDERS = ("builtin", "kuberay")
World = training_world.World | kuberay_world.World
ATTEMPT = ("Job", "RayJob", "ConfigMap", "Service", "Secret")
"""Kinds of an attempt's own objects: they are made once, and a change of one would restart the training."""


def before(provider: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FIXTURES / f"attempt-{provider}.yaml").read_text(encoding="utf-8"))
    return content


def upgraded(provider: str) -> World:
    """The cluster as the release before left it, with this release's operator and its images."""
    world: World = training_world.World() if provider == "builtin" else kuberay_world.World()
    found = before(provider)
    world.parent, world.progress = found["parent"], found["progress"]
    world.pods, world.streams = found["pods"], set(found["streams"])
    world.objects = {Ref.of(live): ApplyModel(schemas(), live=live) for live in found["objects"]}
    world.runtime = replace(world.runtime, cpu_image="cpu:new", gpu_image="gpu:new", worker_image="worker:new")
    return world


def condition(world: World, kind: str) -> str:
    return next(str(one["status"]) for one in world.parent["status"]["conditions"] if one["type"] == kind)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_running_attempt_goes_on_untouched(provider: str) -> None:
    """Its progress has no phase yet, and its pods run the old image: neither is a reason to restart it."""
    world = upgraded(provider)
    untouched = {ref: live for ref, live in world.live().items() if ref.kind in ATTEMPT}
    images = {c["image"] for c in containers(world.live().values(), *ATTEMPT)}
    assert images == {"cpu"}
    for _ in range(5):
        plan = world.plan()
        touched = [action for action in plan.actions if isinstance(action, Apply | Create | Delete)]
        assert not [action for action in touched if _ref(action).kind in ATTEMPT]
        world.carry_out(plan)
        world.passes(30)
    assert {ref: live for ref, live in world.live().items() if ref.kind in ATTEMPT} == untouched
    assert (world.attempt, condition(world, "Running"), condition(world, "Accepted")) == (1, "True", "True")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_its_end_is_understood(provider: str) -> None:
    world = upgraded(provider)
    world.progress |= {"state": "Complete", "step": 10}
    if isinstance(world, training_world.World):
        world.head_ends(0)
    else:
        world.driver_ends(0)
    world.settle()
    assert condition(world, "Complete") == "True"


def _ref(action: Apply | Create | Delete) -> Ref:
    return action.ref if isinstance(action, Delete) else Ref.of(action.manifest)


# ── an old template with the new image ─────────────────────────────────────────────────────────────────────────────


def templates(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every pod template in it, wherever it is."""
    if isinstance(value, Mapping):
        if "containers" in value.get("spec", {}) if isinstance(value.get("spec"), Mapping) else False:
            yield value
        for one in value.values():
            yield from templates(one)
    elif isinstance(value, list):
        for one in value:
            yield from templates(one)


def containers(objects: Any, *kinds: str) -> list[Mapping[str, Any]]:
    found = [t for live in objects if not kinds or live["kind"] in kinds for t in templates(live.get("spec", {}))]
    return [one for template in found for one in template["spec"]["containers"]]


def commands(provider: str) -> list[list[str]]:
    """All that its pods start, pre-stop hooks and the driver's entrypoint with them."""
    found: list[list[str]] = []
    for live in before(provider)["objects"]:
        for container in containers([live]):
            if "command" in container:
                found.append(container["command"])
            if hook := container.get("lifecycle", {}).get("preStop", {}).get("exec"):
                found.append(hook["command"])
        if entry := live.get("spec", {}).get("entrypoint"):
            found.append(entry.removeprefix("exec ").split())
    return found


class _Parsed(Exception):
    """Arguments were understood; nothing is started."""


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_command_of_its_pods_is_understood_by_this_image(
    provider: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        parse(self, args, namespace)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    for name, value in {"POD_IP": "10.0.0.1", "NATS_URL": "nats://nats:4222"}.items():  # as their variables have it
        monkeypatch.setenv(name, value)
    found = commands(provider)
    assert len(found) == {"builtin": 4, "kuberay": 5}[provider]
    for first, *words in found:
        if first == "orchestra":
            resources = str(FIXTURES / "objects.yaml")
            name, *rest = [word.replace("/etc/toolorchestra/resources.yaml", resources) for word in words]
            command = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]
            assert command.make_context(name, [tmp_path.as_posix() if w.startswith("/volumes") else w for w in rest])
            continue
        assert (first, words[0]) == ("python", "-m")
        with pytest.raises(_Parsed):
            importlib.import_module(words[1]).main(words[2:])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_its_drivers_configuration_is_read(provider: str, tmp_path: Path) -> None:
    """Field by field, as it was meant."""
    (data,) = [live["data"] for live in before(provider)["objects"] if live["kind"] == "ConfigMap"]
    meant = json.loads(data["driver.json"])
    read = DriverConfig.model_validate_json(data["driver.json"]).model_dump(mode="json")
    assert {name: read[name] for name in meant} == meant
    assert DriverConfig.model_config.get("extra") == "ignore", "a newer operator's fields do not end an older image"
