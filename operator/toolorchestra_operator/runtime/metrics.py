"""The operator's metrics, which Prometheus scrapes as text on their own port.

| metric `toolorchestra_operator_…` | labels | meaning |
| --- | --- | --- |
| `reconcile_seconds` | kind, outcome | one reconcile: `unchanged` (wrote nothing), `changed`, `gone` or `failed` |
| `reconcile_failures_total` | kind, error | failed reconciles, by error |
| `actions_total` | kind, action | actions of plans: Apply, Create, Delete, …, Status |
| `queue_depth` | | resources that are due |
| `queue_oldest_seconds` | | how long the oldest resource has been due |
| `watches_deaf` | | watches that cannot be opened: a right is missing, or the API server does not answer |
| `api_requests_total` | verb, resource, code | requests to the API server; `timeout` and `unreachable` are codes too |
| `resyncs_total` | outcome | `done` or `failed` |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.planning.plan import Plan

Outcome = Literal["unchanged", "changed", "gone", "failed"]

_PREFIX: Final = "toolorchestra_operator_"
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass
class Meter:
    """The operator's metrics, in their own registry."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self._seconds = Histogram(
            f"{_PREFIX}reconcile_seconds",
            "One reconcile of one resource.",
            ["kind", "outcome"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._failures = Counter(
            f"{_PREFIX}reconcile_failures", "Failed reconciles, by error.", ["kind", "error"], registry=self.registry
        )
        self._actions = Counter(
            f"{_PREFIX}actions", "Actions of plans, by type.", ["kind", "action"], registry=self.registry
        )
        self._requests = Counter(
            f"{_PREFIX}api_requests",
            "Requests to the API server.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._resyncs = Counter(
            f"{_PREFIX}resyncs", "Reconciles of all resources.", ["outcome"], registry=self.registry
        )
        for outcome in ("done", "failed"):
            # The series starts at 0: the alert on missing resyncs needs it.
            self._resyncs.labels(outcome)
        self._depth = Gauge(f"{_PREFIX}queue_depth", "Resources that are due.", registry=self.registry)
        self._oldest = Gauge(
            f"{_PREFIX}queue_oldest_seconds", "How long the oldest has been due.", registry=self.registry
        )
        self._deaf = Gauge(f"{_PREFIX}watches_deaf", "Watches that cannot be opened.", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def queue(self, *, depth: Callable[[], float], oldest: Callable[[], float]) -> None:
        """Set the functions that return the queue's figures."""
        self._depth.set_function(depth)
        self._oldest.set_function(oldest)

    def watches(self, *, deaf: Callable[[], float]) -> None:
        """Set the function that returns the number of deaf watches."""
        self._deaf.set_function(deaf)

    def request(self, verb: str, resource: str, code: str) -> None:
        """Count a request to the API server, with or without an answer. The API adapter calls it as its `count`."""
        self._requests.labels(verb, resource, code).inc()

    def looked(self, key: Key, *, seconds: float, outcome: Outcome) -> None:
        """Record the end of one reconcile."""
        self._seconds.labels(key.kind, outcome).observe(seconds)

    def failed(self, key: Key, error: BaseException) -> None:
        """Count a failed reconcile, by its error."""
        self._failures.labels(key.kind, type(error).__name__).inc()

    def carried_out(self, key: Key, plan: Plan) -> None:
        """Count the actions of a plan."""
        for action in plan.actions:
            self._actions.labels(key.kind, type(action).__name__).inc()
        if plan.status is not None:
            self._actions.labels(key.kind, "Status").inc()

    def resynced(self, *, ok: bool) -> None:
        """Count a resync: all resources were listed (`ok`), or could not be."""
        self._resyncs.labels("done" if ok else "failed").inc()

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    async def answer(self) -> web.Response:
        """Answer a request for `/metrics`."""
        return web.Response(body=self.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
