"""A training's life on a real API server and a real NATS server, its cluster played by a script.

What Kubernetes' controllers and the kubelet would write (status of Jobs, Deployments and pods) and what the controller
of the training would tell (its progress in the key-value bucket) is written here; everything else is the operator's.
`Stage.world` is what is there in the end, without what differs from life to life: the same story gives the same world.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import nats
import urllib3.exceptions
import yaml
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from support.real_run import TINY_RUN
from testbed.api import Api, Refused
from toolorchestra.bus.streams import StreamNames
from toolorchestra.contract.labels import TRAINING_LABEL
from toolorchestra_operator.trainings.names import TrainingNames

GROUP = "/apis/toolorchestra.dev/v1alpha1"
TRAINING = "orchestratortrainings"
STEPS = 10
_TICK = 0.1
MADE = (
    ("/api/v1", "secrets"),
    ("/api/v1", "persistentvolumeclaims"),
    ("/api/v1", "configmaps"),
    ("/api/v1", "services"),
    ("/apis/batch/v1", "jobs"),
    ("/apis/apps/v1", "deployments"),
)
"""Collections of what the operator makes for a training."""
_STAMP = "2030-01-01T00:00:00Z"
_TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))


def documents(name: str = "tiny", **spec: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The tiny training under a name, and its pools, which nobody probes."""
    training, *pools = copy.deepcopy(_DOCUMENTS)
    training["metadata"]["name"] = name
    training["spec"]["ray"] = {"provider": "Builtin"}  # Jobs are what is played, also where RayJobs are served
    training["spec"] |= spec
    for pool in pools:
        pool["spec"]["endpoint"]["probe"] = "None"
    return training, pools


async def _noted(error: Exception) -> None:
    """That the server is away: whoever asks it then finds out."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A NATS client."""
    client = await nats.connect(url, error_cb=_noted)
    try:
        yield client
    finally:
        await client.close()


@dataclass
class Stage:
    """One training of one namespace. `bus`: a client of the NATS server that the operator uses."""

    api: Api
    namespace: str
    bus: Client
    name: str = "tiny"

    # ── what a person does ─────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, *, pools: bool = True, **spec: Any) -> None:
        """Apply the training, its pools, and a claim for its model."""
        training, experts = documents(self.name, **spec)
        for pool in experts if pools else ():
            self.api.create(f"{GROUP}/namespaces/{self.namespace}/expertpools", pool)
        self._claim("models")
        self.api.create(self.path(), training)

    def _claim(self, name: str) -> None:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        with contextlib.suppress(Refused):  # it is there already
            self.api.create(self.of("/api/v1", "persistentvolumeclaims"), {"metadata": {"name": name}, "spec": spec})

    def path(self, name: str = "") -> str:
        return self.of(GROUP, TRAINING, name)

    def of(self, group: str, plural: str, name: str = "", part: str = "") -> str:
        return "/".join(filter(None, (f"{group}/namespaces/{self.namespace}/{plural}", name, part)))

    def live(self) -> dict[str, Any]:
        return self.api.get(self.path(self.name))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.live().get("status") or {}
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        conditions = self.status().get("conditions") or ()
        return next(((one["status"], one["reason"]) for one in conditions if one["type"] == kind), ("", ""))

    @property
    def names(self) -> TrainingNames:
        return TrainingNames.of(self.live())

    # ── what Kubernetes would do ───────────────────────────────────────────────────────────────────────────────────

    def jobs(self, attempt: int) -> dict[str, dict[str, Any]]:
        """Of an attempt, by component; those that are there."""
        found = {}
        for component in ("engines", "trainers", "head"):
            try:
                found[component] = self.api.get(self.of("/apis/batch/v1", "jobs", f"{self.name}-{attempt}-{component}"))
            except Refused as refused:
                if refused.code != 404:
                    raise
        return found

    def comes_up(self, attempt: int) -> None:
        """All pods of the attempt run; the head's Job says so last."""
        for job in self.jobs(attempt).values():
            wanted = job["spec"]["parallelism"]
            self._job_status(job, {"active": wanted, "ready": wanted, "startTime": _STAMP})

    def head_ends(self, attempt: int, code: int, *, message: str = "") -> None:
        """Its pod, then its Job."""
        job = self.jobs(attempt)["head"]
        template = job["spec"]["template"]
        pod = f"{job['metadata']['name']}-0"
        pods = self.of("/api/v1", "pods")
        about = {"apiVersion": "batch/v1", "kind": "Job", "controller": True}
        owner = about | {key: job["metadata"][key] for key in ("name", "uid")}
        metadata = {"name": pod, "labels": template["metadata"]["labels"], "ownerReferences": [owner]}
        self.api.create(pods, {"metadata": metadata, **_only_spec(job)})
        ended = {"exitCode": code, "message": message, "reason": "Completed" if code == 0 else "Error"}
        container = {"name": "head", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
        container["state"] = {"terminated": ended}
        phase = "Succeeded" if code == 0 else "Failed"
        self.api.merge(f"{pods}/{pod}/status", {"status": {"phase": phase, "containerStatuses": [container]}})
        kinds = ("SuccessCriteriaMet", "Complete") if code == 0 else ("FailureTarget", "Failed")
        times = {"lastTransitionTime": _STAMP, "lastProbeTime": _STAMP}
        conditions = [{"type": kind, "status": "True", "reason": "Played", **times} for kind in kinds]
        status: dict[str, Any] = {"active": 0, "ready": 0, "startTime": _STAMP, "conditions": conditions}
        if code == 0:
            status |= {"succeeded": 1, "completedIndexes": "0", "completionTime": _STAMP}
        else:
            status |= {"failed": 1}
        self._job_status(job, status)

    def collect_pods(self) -> None:
        """The garbage collector's part: pods whose Job is gone."""
        jobs = {one["metadata"]["name"] for one in self.api.get(self.of("/apis/batch/v1", "jobs"))["items"]}
        for pod in self.api.get(self.of("/api/v1", "pods"))["items"]:
            name = pod["metadata"]["name"]
            if name.removesuffix("-0") not in jobs:
                self.api.delete(self.of("/api/v1", "pods", name), gracePeriodSeconds="0")

    def collect_children(self) -> None:
        """The same for all that a training that is gone owned."""
        for group, plural in MADE:
            for live in self.api.get(self.of(group, plural))["items"]:
                labels = live["metadata"].get("labels") or {}
                if live["metadata"].get("ownerReferences") and labels.get(TRAINING_LABEL) == self.name:
                    self.api.delete(self.of(group, plural, live["metadata"]["name"]), propagationPolicy="Background")

    def _job_status(self, job: dict[str, Any], status: dict[str, Any]) -> None:
        self.api.merge(self.of("/apis/batch/v1", "jobs", job["metadata"]["name"], "status"), {"status": status})

    # ── what the training's controller would tell ──────────────────────────────────────────────────────────────────

    async def tells(self, attempt: int, step: int, *, state: str = "Running", uid: str = "") -> None:
        """The controller's progress; with a checkpoint of that step."""
        names = StreamNames(uid or self.names.short_uid)
        saved = {"step": step, "path": f"/storage/run/{step}", "time": 1893456000, "digest": "sha256:" + "0" * 64}
        told = {
            "attempt": attempt,
            "state": state,
            "message": "",
            "step": step,
            "steps": STEPS,
            "policyVersion": f"v{step}",
            "progressPercentage": 100 * step // STEPS,
            "spentUSD": f"0.{step:02}",
            "checkpoint": saved,
            "updated": round(time.time(), 3),
        }
        bucket = await self.bus.jetstream(timeout=60).key_value(names.state)
        await bucket.put("progress", json.dumps(told).encode())

    # ── what is there in the end ───────────────────────────────────────────────────────────────────────────────────

    async def world(self) -> dict[str, str]:
        """Everything about the training but events; without times, UIDs, versions, and the namespace's name."""
        parent = self.live()
        found = {"status": parent.get("status"), "finalizers": parent["metadata"].get("finalizers") or []}
        for group, plural in MADE:
            for live in self.api.get(self.of(group, plural))["items"]:
                found[f"{plural} {live['metadata']['name']}"] = _lasting(live)
        names = self.names
        found["streams"] = await self.streams(names.short_uid)
        return {what: self._timeless(value, names) for what, value in found.items()}

    def events(self) -> list[tuple[str, str, str]]:
        """Those about the training: type, reason, note."""
        items = self.api.get(self.of("/apis/events.k8s.io/v1", "events"))["items"]
        return [(e["type"], e["reason"], e["note"]) for e in items if e["regarding"]["name"] == self.name]

    async def streams(self, short_uid: str) -> list[tuple[str, Any]]:
        """The training's streams and what was chosen for them."""
        found = []
        for info in await self.bus.jetstream(timeout=60).streams_info():
            config = info.config
            if f"TO_{short_uid}_" in (config.name or ""):
                try:
                    consumers = await self.bus.jetstream(timeout=60).consumers_info(config.name or "")
                except NotFoundError:  # deleted between the two requests: it is no stream of the training any more
                    continue
                names = [one.name for one in consumers]
                found.append((config.name, config.subjects, config.metadata, names))
        return sorted(found, key=str)

    def _timeless(self, value: Any, names: TrainingNames) -> str:
        text = json.dumps(value, sort_keys=True, indent=1)
        for varies, stands in ((names.uid, "UID"), (names.short_uid, "SHORT"), (self.namespace, "NAMESPACE")):
            text = text.replace(varies, stands)
        return _UID.sub("ANOTHER-UID", _TIMES.sub("TIME", text))


def _only_spec(job: dict[str, Any]) -> dict[str, Any]:
    return {"spec": job["spec"]["template"]["spec"]}


def _lasting(live: dict[str, Any]) -> Any:
    """An object without what the server counts and times; a Secret's values are only there or not."""
    found = copy.deepcopy(live)
    uid = found["metadata"]["uid"]
    for counted in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        found["metadata"].pop(counted, None)
    for key, value in (found.get("data") or {}).items():
        if live.get("type") == "Opaque":
            found["data"][key] = bool(value)
    return json.loads(json.dumps(found).replace(uid, "ITSELF"))


@dataclass
class Player:
    """Plays a training's cluster as it goes: what was made comes up, the first attempt fails, the next completes."""

    stage: Stage
    up: set[int] = field(default_factory=set[int])
    ended: set[int] = field(default_factory=set[int])
    failing: int = 1
    """Attempts that fail before one does not."""
    endless: bool = False
    """It runs, and never ends."""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def came_up(self, attempt: int) -> None:
        """Wait until the attempt runs."""
        async with self._news:
            await self._news.wait_for(lambda: attempt in self.up)

    async def play(self) -> None:
        """For as long as it is not cancelled; whatever the API server says meanwhile."""
        while True:
            with contextlib.suppress(Refused, urllib3.exceptions.HTTPError, NotFoundError):
                await self.act()
            await asyncio.sleep(_TICK)

    async def act(self) -> None:
        """What is due now."""
        stage = self.stage
        status = stage.status()
        attempt = status.get("attempt", 0)
        fails = attempt <= self.failing
        if attempt and attempt not in self.up and len(stage.jobs(attempt)) == 3:
            await stage.tells(attempt, 1 if fails else 5)
            stage.comes_up(attempt)
            self.up.add(attempt)
            async with self._news:
                self._news.notify_all()
        if self.endless or attempt not in self.up - self.ended or stage.condition("Running")[0] != "True":
            return
        if fails:
            stage.head_ends(attempt, 1, message="ValueError: boom")
        else:
            await stage.tells(attempt, STEPS, state="Complete")
            stage.head_ends(attempt, 0)
        self.ended.add(attempt)
        stage.collect_pods()


@asynccontextmanager
async def played(*players: Player) -> AsyncIterator[None]:
    """They play meanwhile. A player that breaks is an error in the end."""
    tasks = [asyncio.create_task(player.play()) for player in players]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
