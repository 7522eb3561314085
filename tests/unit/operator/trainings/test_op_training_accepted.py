"""What a training asks for that cannot work, is missing or may not be seen."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from support.cluster.training_world import DOCUMENTS, KEPT, World
from toolorchestra.api.conditions import Reason
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.planning.plan import MakeStreams
from toolorchestra_operator.trainings import workers
from toolorchestra_operator.trainings.terms import Terms

GPU = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
MIG = {"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1}}}
"""One part of a GPU."""
REQUESTED = {"resources": {"requests": {"nvidia.com/gpu": 1}}}


@pytest.mark.parametrize(
    ("ray", "said"),
    [
        ({"trainers": GPU}, "spec.ray.engines.resources.limits: no GPU, and trainers have one"),
        ({"engines": GPU}, "spec.ray.trainers.resources.limits: no GPU, and engines have one"),
        ({"trainers": MIG}, "spec.ray.engines.resources.limits: no GPU, and trainers have one"),
        (
            {"trainers": REQUESTED, "engines": GPU},
            "spec.ray.trainers.resources: nvidia.com/gpu: it is in requests only",
        ),
    ],
)
def test_gpus_that_would_never_be_had_are_refused_at_once(ray: dict[str, Any], said: str) -> None:
    """Engines would wait for ever for a node with a GPU, while the trainers' ones are paid for."""
    world = World(ray=ray)
    world.settle()
    accepted, reason, message = world.says("Accepted")
    assert (accepted, reason) == ("False", "InvalidSpec")
    assert message.startswith(said)
    assert not world.objects


@pytest.mark.parametrize(
    "ray",
    [
        {},
        {"trainers": GPU, "engines": GPU},
        {"trainers": MIG, "engines": MIG},
        {"trainers": GPU, "placement": "Shared"},
    ],
)
def test_gpus_for_both_or_neither_are_accepted(ray: dict[str, Any]) -> None:
    world = World(ray=ray)
    world.settle()
    assert world.says("Accepted")[0] == "True"


def test_what_cannot_work_is_refused_and_heals() -> None:
    world = World()
    pools, world.pools = world.pools, ()
    world.settle()
    status, reason, message = world.says("Accepted")
    assert (status, reason) == ("False", "PoolNotFound")
    assert "small, large" in message
    assert not world.objects
    world.pools = pools
    world.settle()
    assert world.says("Accepted")[0] == "True"


def test_more_workers_may_hold_more_tasks() -> None:
    """Without it a training that is given ten times the workers goes on as slowly as before."""
    world = World()
    world.settle()
    world.comes_up()

    def made() -> list[int]:
        return [one.settings.max_ack_pending for one in world.plan().actions if isinstance(one, MakeStreams)]

    for wanted, leases in ((2, 19), (20, 192), (1, 16)):
        world.parent["spec"]["rollout"]["workers"] = wanted
        assert made() == ([] if world.leases is None else [leases])
        world.leases = leases
        assert not made()


def test_what_is_missing_holds_up_a_start_and_no_end() -> None:
    """A Secret that went after the end must not keep the TTL from doing its work."""
    world = World()
    world.missing = (Missing(Reason.CLAIM_NOT_FOUND, "spec.model.uri: there is no claim"),)
    world.settle()
    assert world.says("Accepted") == ("False", "ClaimNotFound", "spec.model.uri: there is no claim")
    assert not world.kinds()
    world.missing = ()
    world.settle()
    world.comes_up()
    world.head_ends(0)
    world.settle()
    world.missing = (Missing(Reason.SECRET_NOT_FOUND, "gone"),)
    world.passes(86_401)
    world.settle()
    assert world.says("Accepted")[0] == "True"
    assert world.kinds() == KEPT


@pytest.mark.parametrize("breaks", ["stored under another schema", "nobody thought of it"])
@pytest.mark.parametrize("ends", ["suspended", "failed", "complete", "deadline"])
def test_a_spec_that_cannot_be_worked_with_holds_up_no_end(
    breaks: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terms that can be read count: they may be all that is right in it."""
    world = World(backoffLimit=0, ttlSecondsAfterFinished=60, keepFailedSeconds=0, activeDeadlineSeconds=3600)
    world.settle()
    world.comes_up()
    world.settle()
    if breaks == "nobody thought of it":

        def breaks_down(*_: Any, **__: Any) -> None:
            raise TypeError("a pod template that is a number")

        monkeypatch.setattr(workers, "deployment", breaks_down)
    else:
        world.parent["spec"]["rollout"] = {"workers": "many"}
        world.parent["spec"] |= {"keepFailedSeconds": "a while", "algorithm": 5}
    world.progress |= {"step": 2}
    world.settle()
    accepted, reason, message = world.says("Accepted")
    assert (accepted, reason) == ("False", "OperatorFailed" if breaks == "nobody thought of it" else "InvalidSpec")
    assert ("a pod template that is a number" if breaks == "nobody thought of it" else "spec.algorithm") in message
    assert world.says("Running") == ("True", "Training", "step 2 of 10")
    match ends:
        case "suspended":
            world.parent["spec"]["suspend"] = True
            world.settle()
            assert world.says("Suspended")[0] == "True"
            assert world.kinds() == KEPT | {"Secret tiny-ray"}
            return
        case "failed":
            world.head_ends(1, "ValueError: boom")
            world.settle()
            assert world.says("Failed")[1] == "BackoffLimitExceeded"
        case "deadline":
            world.passes(3601)
            world.settle()
            assert world.says("Failed")[1] == "ActiveDeadlineExceeded"
        case _:
            world.head_ends(0)
            world.settle()
            assert world.says("Complete")[0] == "True"
            assert world.parent["status"]["exportURI"].startswith("pvc://tiny-storage/tiny-")
    world.passes(601)
    world.settle()
    assert world.kinds() == KEPT
    assert not world.streams


def test_what_may_not_be_looked_at_is_not_taken_for_gone() -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    made = world.kinds()
    world.hidden = tuple(world.job(component) for component in ("head", "trainers", "engines"))
    world.settle()
    assert world.says("Accepted")[:2] == ("False", "Forbidden")
    assert "Job default/tiny-1-head" in world.says("ClusterReady")[2]
    assert (world.attempt, world.kinds()) == (1, made)
    world.parent["spec"]["suspend"] = True
    world.settle()
    assert world.says("Suspended") == ("True", "Suspending", "waiting for the last checkpoint")
    world.hidden = ()
    world.settle()
    assert world.says("Suspended")[2] == "compute is given back"
    assert world.kinds() == KEPT | {"Secret tiny-ray"}


def test_terms_are_what_the_models_make_of_a_spec() -> None:
    spec = DOCUMENTS[0]["spec"]
    claim = {"type": "ExistingClaim", "existingClaim": {"claimName": "shared", "path": "runs/"}}
    more = {
        "suspend": True,
        "backoffLimit": 7,
        "queueName": "research",
        "storage": claim,
        "activeDeadlineSeconds": 9999,
    }
    for changed in ({}, more):
        parent = {**DOCUMENTS[0], "metadata": {"name": "tiny", "namespace": "default"}, "spec": {**spec, **changed}}
        whole = OrchestratorTraining.model_validate(parent).spec
        terms = Terms.of(parent)
        assert asdict(terms) == {name: getattr(whole, name) for name in asdict(terms)}
    assert Terms.of({"spec": {"backoffLimit": -1, "storage": "round", "suspend": True}}) == replace(
        Terms.of({"spec": {}}), suspend=True
    )


def test_a_nats_that_nobody_can_ask_is_not_written_to() -> None:
    """What is missing there is not known; and a write that fails would keep what runs from being told of."""
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    world.nats_error = "NATS at nats://nats:4222: no answer in time"
    assert not [one for one in world.plan().actions if isinstance(one, MakeStreams)]
    world.head_ends(1, "ValueError: boom")
    world.settle()
    assert world.attempt == 2
    assert world.says("MessagingReady")[:2] == ("False", "MessagingUnreachable")
    assert not [kind for kind in world.kinds() if kind.startswith("Job tiny-2")]
