"""Prints the logs of a training's pods, once or continuously; with several pods, each line has the pod's name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolorchestra.cluster_client.errors import ClusterError, NotFound
from toolorchestra.cluster_client.pods import container_of, has_log, is_over, of_role, restarts, runs, waits_for
from toolorchestra.cluster_client.state import state_of
from toolorchestra.cluster_client.trainings import POLL_SECONDS, find
from toolorchestra.contract.labels import TRAINING_LABEL, Role
from toolorchestra.kube.kinds import PODS

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

Json = dict[str, Any]
Write = Callable[[bytes], None]
Choose = Callable[[list[Json]], list[Json]]
OVER = frozenset({"Complete", "Failed", "Suspended", "Paused", "Ending", "Refused"})
"""States after which the training starts no more pods."""


def pods_of(kube: Kube, name: str, *, namespace: str) -> list[Json]:
    """Return all pods of a training, also those that have ended."""
    return kube.list(PODS, namespace=namespace, labels=f"{TRAINING_LABEL}={name}")


def choose(role: Role, pod: str | None) -> Choose:
    """Return a filter for the wanted pods: one by its name, or all of a role."""

    def chosen(pods: list[Json]) -> list[Json]:
        if pod is not None:
            return [one for one in pods if one["metadata"]["name"] == pod]
        return of_role(pods, role)

    return chosen


def write_logs(
    kube: Kube, pods: list[Json], *, write: Write, say: Callable[[str], None], tail: int | None, previous: bool = False
) -> None:
    """Write the logs as they are now; `tail`: lines from the end, None for all."""
    for pod in pods:
        name, container = pod["metadata"]["name"], container_of(pod)
        if not previous and not has_log(pod, container):
            say(f"{name} has no log yet: {waits_for(pod)}")
            continue
        chunks = kube.log(
            name,
            namespace=pod["metadata"]["namespace"],
            container=container,
            tail=tail,
            follow=False,
            previous=previous,
        )
        for data in chunks if len(pods) == 1 else prefixed(chunks, name):
            write(data)


@dataclass
class Follower:
    """Follows the logs of the chosen pods, also those of later attempts, until the training ends.

    One thread per pod; a lock makes sure that only one thread at a time calls `write`.
    """

    kube: Kube
    write: Write
    say: Callable[[str], None]
    tail: int | None
    poll: float = POLL_SECONDS
    sleep: Callable[[float], None] = time.sleep
    _followed: dict[str, threading.Thread] = field(default_factory=dict[str, threading.Thread])
    _said: dict[str, str] = field(default_factory=dict[str, str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def follow(self, name: str, *, namespace: str, chosen: Choose) -> None:
        """Write the logs until all of them have ended and the training starts no more pods."""
        while True:
            pods = chosen(pods_of(self.kube, name, namespace=namespace))
            for pod in pods:
                self._begin(pod, alone=len(pods) == 1)
            alive = any(thread.is_alive() for thread in self._followed.values())
            if not alive and all(map(is_over, pods)) and _is_over(self.kube, name, namespace=namespace):
                return
            self.sleep(self.poll)

    def _begin(self, pod: Json, *, alone: bool) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self._followed:
            return
        if has_log(pod, container_of(pod)):
            self._followed[uid] = threading.Thread(target=self._follow_one, args=(pod, alone), daemon=True)
            self._followed[uid].start()
        elif self._said.get(uid) != (why := waits_for(pod)):
            self._said[uid] = why
            self.say(f"{pod['metadata']['name']} has no log yet: {why}")

    def _follow_one(self, pod: Json, alone: bool) -> None:
        """Write one pod's log until the pod ends; after a restart of the container, continue with its new log."""
        name, tail = pod["metadata"]["name"], self.tail
        about = {"namespace": pod["metadata"]["namespace"], "container": container_of(pod)}
        try:
            while True:
                before = restarts(pod, about["container"])
                chunks = self.kube.log(name, tail=tail, follow=True, **about)
                for data in chunks if alone else prefixed(chunks, name):
                    with self._lock:
                        self.write(data)
                if (now := self._when_running(pod)) is None:
                    return
                pod = now
                # Without a restart, the connection broke: old lines are not printed again (lines in between are lost).
                tail = None if restarts(pod, about["container"]) > before else 0
        except NotFound:
            return
        except ClusterError as error:
            self.say(str(error))

    def _when_running(self, pod: Json) -> Json | None:
        """Wait until the pod's container runs (again) and return the pod; None where the pod has ended."""
        metadata, container = pod["metadata"], container_of(pod)
        while True:
            now = self.kube.find(PODS, metadata["name"], namespace=metadata["namespace"])
            if now is None or now["metadata"]["uid"] != metadata["uid"] or is_over(now):
                return None
            if runs(now, container):
                return now
            self.sleep(self.poll)


def _is_over(kube: Kube, name: str, *, namespace: str) -> bool:
    try:
        return state_of(find(kube, name, namespace=namespace)) in OVER
    except NotFound:
        return True


def prefixed(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield whole lines, each with the pod's name before it; a last line without a newline gets one."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield f"[{name}] ".encode() + line + b"\n"
    if rest:
        yield f"[{name}] ".encode() + rest + b"\n"
