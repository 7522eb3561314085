"""Logs of a training's pods: which pods, what is said of those that do not run, several at once, later lives."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from toolorchestra.cluster_client.errors import NotFound
from toolorchestra.cluster_client.logs import Follower, choose, prefixed, write_logs
from toolorchestra.cluster_client.pods import container_of, has_log, of_role, overview, waits_for


def pod(
    component: str, *, number: int = 0, attempt: int = 1, state: str = "running", phase: str = "Running", lives: int = 0
) -> dict[str, Any]:
    name = f"demo-{attempt}-{component}-{number}"
    labels = {"app.kubernetes.io/component": component, "toolorchestra.dev/attempt": str(attempt)}
    status = {"name": component, "state": {state: {}}, "restartCount": lives}
    return {
        "metadata": {"name": name, "namespace": "team", "uid": f"{name}-uid", "labels": labels},
        "spec": {"containers": [{"name": "sidecar"}, {"name": component}]},
        "status": {"phase": phase, "containerStatuses": [status]},
    }


def over(one: dict[str, Any]) -> dict[str, Any]:
    ended = copy.deepcopy(one)
    ended["status"] |= {"phase": "Succeeded"}
    return ended


class Cluster:
    """Pods by turns of being asked, logs by pod and life; the training is there until the last turn."""

    def __init__(self, *turns: list[dict[str, Any]], logs: dict[str, list[list[bytes]]]) -> None:
        self.turns, self.logs, self.asked = list(turns), logs, list[tuple[str, int | None]]()

    def list(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]

    def find(self, _: Any, name: str, **__: Any) -> dict[str, Any] | None:
        return next((one for one in self.turns[0] if one["metadata"]["name"] == name), None)

    def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        if len(self.turns) > 1:
            return {"metadata": {"name": "demo", "namespace": "team"}, "spec": {}}
        raise NotFound("the training is gone: no pod will follow")

    def log(self, name: str, *, tail: int | None, **_: Any) -> Iterator[bytes]:
        self.asked.append((name, tail))
        lives = self.logs[name]
        yield from lives.pop(0) if lives else []


def follow(cluster: Cluster, role: Any = "head", *, tail: int | None = 5) -> tuple[bytes, list[str]]:
    written, said = bytearray(), list[str]()
    follower = Follower(cluster, written.extend, said.append, tail, poll=0.001)  # type: ignore[arg-type]
    follower.follow("demo", namespace="team", chosen=choose(role, None))
    return bytes(written), said


def test_pods_of_a_role_are_those_of_the_newest_attempt() -> None:
    pods = [pod("trainers", number=1, attempt=2), pod("trainers", attempt=2), pod("trainers"), pod("head", attempt=2)]
    names = [one["metadata"]["name"] for one in of_role(pods, "trainer")]
    assert names == ["demo-2-trainers-0", "demo-2-trainers-1"]
    assert [one["metadata"]["name"] for one in choose("head", "demo-1-trainers-0")(pods)] == ["demo-1-trainers-0"]


def test_the_container_is_the_components_or_the_first() -> None:
    assert container_of(pod("head")) == "head"
    other = pod("head")
    other["spec"]["containers"] = [{"name": "ray-head"}, {"name": "x"}]
    assert container_of(other) == "ray-head"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}]},
            "PullBackOff: no",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "GPU"}]},
            "GPU",
        ),
        ({"initContainerStatuses": [{"name": "fetch-model", "state": {"running": {}}}]}, "fetch-model runs"),
        ({"phase": "Pending"}, "Pending"),
    ],
)
def test_why_a_pod_does_not_run(status: dict[str, Any], words: str) -> None:
    assert words in waits_for({"status": status})


def test_the_overview_has_a_line_per_pod() -> None:
    [first, second] = overview([pod("workers", lives=2), pod("engines", state="waiting", phase="Pending")])
    assert first.split()[:3] == ["demo-1-engines-0", "engine", "Pending"]
    assert second.endswith("Running, restarted 2 times")


def test_several_pods_are_told_apart_line_by_line() -> None:
    assert b"".join(prefixed([b"one\ntw", b"o\nend"], "p")) == b"[p] one\n[p] two\n[p] end\n"
    written = bytearray()
    cluster = Cluster([], logs={"demo-1-engines-0": [[b"a\n"]], "demo-1-engines-1": [[b"b\n"]]})
    pods = [pod("engines"), pod("engines", number=1), pod("engines", number=2, state="waiting")]
    said: list[str] = []
    write_logs(cluster, pods, write=written.extend, say=said.append, tail=3)  # type: ignore[arg-type]
    assert bytes(written) == b"[demo-1-engines-0] a\n[demo-1-engines-1] b\n"
    assert said == ["demo-1-engines-2 has no log yet: Running"]
    assert not has_log(pods[2], "engines")


def test_one_pods_log_is_written_as_it_is() -> None:
    written = bytearray()
    cluster = Cluster([], logs={"demo-1-head-0": [[b"half a li", b"ne"]]})
    write_logs(cluster, [pod("head")], write=written.extend, say=print, tail=3)  # type: ignore[arg-type]
    assert bytes(written) == b"half a line"


def test_following_waits_for_the_pod_and_ends_with_the_training() -> None:
    waits = pod("head", state="waiting", phase="Pending")
    cluster = Cluster(
        [], [waits], [waits], [pod("head")], [over(pod("head"))], logs={"demo-1-head-0": [[b"a\n", b"b\n"]]}
    )
    written, said = follow(cluster)
    assert (written, said) == (b"a\nb\n", ["demo-1-head-0 has no log yet: Pending"])


def test_a_container_that_is_started_again_is_followed_from_its_beginning() -> None:
    first, second = pod("engines"), pod("engines", lives=1)
    cluster = Cluster([first], [second], logs={"demo-1-engines-0": [[b"one\n"], [b"two\n"]]})

    def ends(*_: Any, **__: Any) -> Iterator[bytes]:
        yield from cluster.logs["demo-1-engines-0"].pop(0)
        if not cluster.logs["demo-1-engines-0"]:
            cluster.turns = [[over(second)]]

    tails: list[int | None] = []

    def log(_: str, *, tail: int | None, **__: Any) -> Iterator[bytes]:
        tails.append(tail)
        return ends()

    cluster.log = log  # type: ignore[method-assign]
    written, _ = follow(cluster, "engine")
    assert (written, tails) == (b"one\ntwo\n", [5, None])


def test_the_next_attempts_pod_is_followed_too() -> None:
    first, second = pod("head"), pod("head", attempt=2)
    logs = {"demo-1-head-0": [[b"one\n"]], "demo-2-head-0": [[b"two\n"]]}
    cluster = Cluster([first], [over(first), second], [over(first), second], [over(first), over(second)], logs=logs)
    written, _ = follow(cluster)
    assert written == b"one\ntwo\n"
