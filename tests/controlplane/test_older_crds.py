"""CRDs and operators of two releases together: `tests/fixtures/release-before` and what is here now.

`helm upgrade` brings CRDs and operator at once; with `crds.enabled=false`, and in a rollback, they meet in every pair.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster.mortal_operator import LookingOperator
from support.cluster.operator_process import until
from support.cluster.pool_world import endpoint_pool
from support.cluster.training_life import GROUP, Stage, connected
from testbed.api import Api, Refused
from testbed.cluster import CHECKOUT
from testbed.control_plane import ControlPlane
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.kubernetes.older_crds import REASONS, TYPES
from toolorchestra_operator.runtime.settings import Settings

BEFORE = CHECKOUT / "tests" / "fixtures" / "release-before"
CRDS = sorted(path.name for path in (CHECKOUT / "crds").glob("*.yaml"))
PLURALS = {"ExpertPool": "expertpools", "OrchestratorTraining": "orchestratortrainings"}
OBJECTS = list(yaml.safe_load_all((BEFORE / "objects.yaml").read_text(encoding="utf-8")))


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """With the CRDs of the release before; one for each test, since definitions are the whole cluster's."""
    with ControlPlane(tmp_path / "plane") as plane:
        Api(plane.kubeconfig).apply_crds(BEFORE / name for name in CRDS)
        Api(plane.kubeconfig).create("/api/v1/namespaces", {"metadata": {"name": "team-a"}})
        yield plane


@pytest.fixture
async def operator(plane: ControlPlane, tmp_path: Path) -> AsyncIterator[tuple[LookingOperator, Stage]]:
    """The operator of now, and the stage that it plays on."""
    async with (
        NatsServer(directory=tmp_path / "nats", sync_always=False) as nats,
        connected(nats.url) as bus,
        await ApiServer.connect(plane.kubeconfig, timeout=60) as server,
    ):
        images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
        made = LookingOperator(server, Settings(nats_url=nats.url, **images))  # type: ignore[arg-type]
        yield made, Stage(Api(plane.kubeconfig), "team-a", bus)
        await made.close()


def conditions(live: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    found = live.get("status", {}).get("conditions", [])
    return {one["type"]: (one["status"], one["reason"], one["message"]) for one in found}


def takes(stage: Stage, kind: str, name: str, reason: str) -> None:
    """Refused: the CRDs do not know the word."""
    said = {"type": "Accepted", "status": "True", "reason": reason, "lastTransitionTime": "2030-01-01T00:00:00Z"}
    status = stage.of(GROUP, PLURALS[kind], name, "status")
    body = {"status": {"conditions": [said]}}
    stage.api.request("PATCH", status, body=body, content="application/merge-patch+json", dryRun="All")


async def upgraded(stage: Stage, objects: dict[str, str]) -> None:
    """Apply the CRDs of now, until the API server goes by them; `objects` are there, one of each kind."""
    stage.api.apply_crds(CHECKOUT / "crds" / name for name in CRDS)

    async def goes_by_them() -> bool:
        try:
            for kind, name in objects.items():
                takes(stage, kind, name, "NotYetThoughtOf")
        except Refused:
            return False
        return True

    await until(goes_by_them, seconds=60)


async def test_an_operator_that_is_newer_than_its_crds_still_says_everything(
    operator: tuple[LookingOperator, Stage],
) -> None:
    """A reason that they do not know is told in words that they know; nothing else is lost."""
    looking, stage = operator
    stage.submit()
    pools = stage.of(GROUP, "expertpools")
    stage.api.create(pools, endpoint_pool(url="http://169.254.169.254/v1"))
    for pool in ("small", "large", "qwen"):
        await looking.look(Key("ExpertPool", "team-a", pool))
    await looking.settles("team-a", "tiny")
    assert stage.condition("Accepted") == ("True", "Accepted")
    said = conditions(stage.api.get(f"{pools}/qwen"))
    status, reason, message = said["Accepted"]
    assert (status, reason) == ("False", "InvalidSpec")
    assert message.startswith("HostNotAllowed: spec.endpoint.url: 169.254.169.254 ")
    assert set(said) == {"Accepted", "Progressing", "Available", "Degraded", "Routable", "Ready"}
    # The CRDs come: the next look says it in its own words.
    await upgraded(stage, {"ExpertPool": "qwen", "OrchestratorTraining": "tiny"})
    await looking.settles("team-a", "qwen", kind="ExpertPool")
    assert conditions(stage.api.get(f"{pools}/qwen"))["Accepted"][1] == "HostNotAllowed"


async def test_what_the_release_before_made_is_read_and_gone_on_with(
    operator: tuple[LookingOperator, Stage],
) -> None:
    looking, stage = operator
    stage.submit(pools=False)  # the claim that the training refers to
    stage.api.delete(stage.path("tiny"))
    for one in OBJECTS:
        path = stage.of(GROUP, PLURALS[one["kind"]])
        stage.api.create(path, {key: value for key, value in one.items() if key != "status"})
        stage.api.merge(f"{path}/{one['metadata']['name']}/status", {"status": one["status"]})
    await upgraded(stage, {one["kind"]: one["metadata"]["name"] for one in OBJECTS})
    for reason in (*REASONS, "NotYetThoughtOf"):  # whichever operator is older or newer than they
        for one in OBJECTS[-2:]:
            takes(stage, one["kind"], one["metadata"]["name"], reason)
    for one in OBJECTS[:-1]:
        await looking.settles("team-a", one["metadata"]["name"], kind="ExpertPool")
    await looking.look(Key("OrchestratorTraining", "team-a", "tiny"))
    for one in OBJECTS:
        live = stage.api.get(f"{stage.of(GROUP, PLURALS[one['kind']])}/{one['metadata']['name']}")
        assert conditions(live)["Accepted"][:2] == ("True", "Accepted"), live["status"]
        assert set(conditions(live)) >= set(conditions(one))
    status = stage.status()
    assert {key: status[key] for key in ("attempt", "experts", "startTime")} == {
        key: OBJECTS[-1]["status"][key] for key in ("attempt", "experts", "startTime")
    }


def test_the_words_that_are_taken_for_older_crds_are_theirs() -> None:
    types: set[str] = set()
    for name in CRDS:
        (version,) = yaml.safe_load((BEFORE / name).read_text(encoding="utf-8"))["spec"]["versions"]
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
        fields = status["conditions"]["items"]["properties"]
        assert set(fields["reason"]["enum"]) == REASONS
        types |= set(fields["type"]["enum"])
    assert types == TYPES
