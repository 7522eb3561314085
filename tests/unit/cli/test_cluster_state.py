"""How a training on a cluster stands, what is said of it while it is followed, and what is kept when it goes."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.run_rig import make_run
from toolorchestra.cli.place import Place
from toolorchestra.cluster_client.errors import (
    Conflicting,
    NotAuthorised,
    NotFound,
    NotServed,
    RequestRefused,
    Unreachable,
    failure,
)
from toolorchestra.cluster_client.format import age, lines, table
from toolorchestra.cluster_client.retention import claim_of, folder_of, retained
from toolorchestra.cluster_client.state import message_of, next_step, state_of, state_row
from toolorchestra.cluster_client.trainings import follow

NOW = datetime(2030, 1, 2, tzinfo=UTC)


def training(*conditions: tuple[str, str, str, str], **status: Any) -> dict[str, Any]:
    keys = ("type", "status", "reason", "message")
    metadata = {"name": "demo", "namespace": "team", "uid": "0b1d6a2e-6c1f", "generation": 1}
    return {
        "metadata": {**metadata, "creationTimestamp": "2030-01-01T00:00:00Z"},
        "spec": {"algorithm": {"steps": 10}, "storage": {"type": "EphemeralClaim", "retentionPolicy": "Retain"}},
        "status": {
            "observedGeneration": 1,
            "conditions": [dict(zip(keys, one, strict=True)) for one in conditions],
            **status,
        },
    }


ACCEPTED = ("Accepted", "True", "Accepted", "")
GIVEN_BACK = ("Suspended", "True", "SuspendedByUser", "compute is given back")


def suspended(one: dict[str, Any], *, generation: int = 1) -> dict[str, Any]:
    one["spec"]["suspend"] = True
    one["metadata"]["generation"] = generation
    return one


@pytest.mark.parametrize(
    ("one", "state", "message"),
    [
        ({**training(), "status": {}}, "Pending", "the operator has not handled it yet"),
        (training(("Accepted", "False", "SecretNotFound", "no s")), "Refused", "SecretNotFound: no s"),
        (training(ACCEPTED, ("QuotaReserved", "False", "QuotaPending", "")), "Queued", "QuotaReserved: QuotaPending"),
        (
            training(ACCEPTED, ("ClusterReady", "False", "Unschedulable", "no GPU"), ("Running", "False", "X", "")),
            "Starting",
            "ClusterReady: Unschedulable: no GPU",
        ),
        (training(ACCEPTED, ("Running", "True", "Training", "step 3 of 10")), "Running", "Training: step 3 of 10"),
        (
            training(ACCEPTED, ("Running", "False", "SpendCapReached", "raise it")),
            "Paused",
            "SpendCapReached: raise it",
        ),
        (suspended(training(ACCEPTED, GIVEN_BACK)), "Suspended", "compute is given back"),
        (suspended(training(ACCEPTED, GIVEN_BACK), generation=2), "Suspending", "compute is given back"),
        (suspended(training(ACCEPTED)), "Suspending", ""),
        (training(ACCEPTED, ("Complete", "True", "StepsDone", "all")), "Complete", "StepsDone: all"),
        (training(ACCEPTED, ("Failed", "True", "BackoffLimitExceeded", "")), "Failed", "BackoffLimitExceeded"),
    ],
)
def test_one_word_and_why(one: dict[str, Any], state: str, message: str) -> None:
    assert (state_of(one), message_of(one)) == (state, message)
    assert (next_step(one) != "") is True


def test_what_is_deleted_is_ending_whatever_else_it_says() -> None:
    one = training(("Complete", "True", "StepsDone", ""))
    one["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert state_of(one) == "Ending"


def test_lines_for_people_leave_out_what_nobody_said() -> None:
    one = training(ACCEPTED, step=3, spentUSD="1.5", metrics={"reward": "0.5"})
    event = {"reason": "Training", "message": "step 1", "lastTimestamp": "2030-01-01T23:00:00Z"}
    said = list(lines(state_row(one), [event], now=NOW))
    assert said[0] == ("demo", "Starting")
    assert ("step", "3 of 10") in said
    assert ("spent", "$1.5") in said
    assert ("events", "  60m  Training: step 1") in said
    assert not {"accuracy", "checkpoint", "model"} & {label for label, _ in said}


def test_a_table_has_a_row_each_and_a_namespace_where_there_are_several() -> None:
    head, row = table([training(ACCEPTED, step=3)], now=NOW)
    assert row.split() == ["demo", "Starting", "3/10", "–", "–", "–", "–", "24h"]
    assert head.split()[0] == "name"
    assert next(iter(table([], now=NOW, namespaces=True))).split()[0] == "namespace"


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("2030-01-01T23:59:30Z", "30s"),
        ("2030-01-01T23:00:00Z", "60m"),
        ("2029-12-25T00:00:00Z", "8d"),
        ("2030-01-02T00:00:10Z", "0s"),
    ],
)
def test_ages(time: str, said: str) -> None:
    assert age(time, NOW) == said


# ── following ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Told:
    """A cluster that tells one thing after the other; an exception is raised."""

    def __init__(self, *told: Any) -> None:
        self.told = list(told)

    def find(self, *_: Any, **__: Any) -> Any:
        one = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(one, Exception):
            raise one
        return one


def followed(*told: Any, ticks: float = 1.0) -> tuple[str, list[str]]:
    said: list[str] = []
    passed = iter(range(1000))
    about: dict[str, Any] = {"say": said.append, "sleep": lambda _: None, "clock": lambda: next(passed) * ticks}
    return follow(Told(*told), training(), **about), said  # type: ignore[arg-type]


RUNNING = training(ACCEPTED, ("Running", "True", "Training", "step 3 of 10"), step=3)
COMPLETE = training(ACCEPTED, ("Complete", "True", "StepsDone", ""), step=10)


def test_every_change_is_said_once() -> None:
    state, said = followed(RUNNING, copy.deepcopy(RUNNING), COMPLETE)
    assert (state, said) == ("Complete", ["Running: step 3 of 10", "Complete: StepsDone"])


def test_an_api_server_that_is_away_is_waited_for() -> None:
    state, said = followed(RUNNING, Unreachable("gone"), Unreachable("gone"), COMPLETE)
    assert (state, said[1:]) == ("Complete", ["gone; waiting for it", "Complete: StepsDone"])


def test_a_deleted_one_ends_it_and_so_does_another_of_its_name() -> None:
    assert followed(RUNNING, None)[0] == "Ending"
    other = copy.deepcopy(RUNNING)
    other["metadata"]["uid"] = "another"
    assert followed(RUNNING, other)[0] == "Ending"


def test_a_refusal_may_heal_for_a_while() -> None:
    refused = training(("Accepted", "False", "PoolNotFound", "x"))
    assert followed(refused, refused, COMPLETE)[0] == "Complete"
    assert followed(refused, ticks=10)[0] == "Refused"


# ── what is kept, and where a name belongs ─────────────────────────────────────────────────────────────────────────


def test_what_is_kept() -> None:
    one = training()
    assert (claim_of(one), folder_of(one)) == ("demo-storage", "demo-0b1d6a2e")
    assert "kept: PersistentVolumeClaim demo-storage" in retained(one)
    one["spec"]["storage"]["retentionPolicy"] = "Delete"
    assert "nothing is kept" in retained(one)
    one["spec"]["storage"] = {"type": "ExistingClaim", "existingClaim": {"claimName": "shared", "path": "/a/"}}
    assert "PersistentVolumeClaim shared, folder a/demo-0b1d6a2e" in retained(one)
    one["spec"]["storage"] = {"type": "URI", "uri": "s3://b/x"}
    assert "s3://b/x" in retained(one)


def test_a_run_here_comes_before_a_training_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, name="demo")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert not Place().holds(Path("demo"), runs=tmp_path)
    assert Place(namespace="team").holds(Path("demo"), runs=tmp_path)
    assert Place().holds(Path("other"), runs=tmp_path)
    assert not Place().holds(Path("runs/other"), runs=tmp_path)
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not Place().holds(Path("other"), runs=tmp_path), "no cluster: it is a run that is not there"


# ── errors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "answer", "kind", "words"),
    [
        (401, {"message": "Unauthorized"}, NotAuthorised, "log in again"),
        (403, {"message": "x is forbidden"}, NotAuthorised, "verb list on resource pods in namespace team"),
        (404, {"message": 'pods "a" not found'}, NotFound, 'pods "a" not found'),
        (404, "404 page not found", NotServed, "does not serve pods"),
        (409, {"message": "conflict"}, Conflicting, "conflict"),
        (422, {"message": "spec.x: Invalid value"}, RequestRefused, "spec.x"),
        (500, {"message": "failed to create typed patch object: x"}, RequestRefused, "typed patch"),
        (503, "overloaded", Unreachable, "try again"),
    ],
)
def test_refusals_are_told_apart_and_say_what_to_do(code: int, answer: Any, kind: type, words: str) -> None:
    error = failure(code, answer, verb="list", resource="pods", namespace="team")
    assert type(error) is kind
    assert words in str(error)


def test_our_own_kinds_absent_say_how_to_install_them() -> None:
    resource = "expertpools.toolorchestra.dev small"
    error = failure(404, "404 page not found", verb="get", resource=resource, namespace="team")
    assert "kubectl apply --server-side -f crds/" in str(error)
