"""The small parts of the operator's process: settings, parents, liveness, events, metrics, resync, discovery."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from testbed.control_plane import free_port
from toolorchestra_operator.api_errors import AlreadyExists, ApiError, Forbidden, Unavailable
from toolorchestra_operator.discovery import INTERESTING, Discovery, words
from toolorchestra_operator.events import Events, event
from toolorchestra_operator.health import health_pages
from toolorchestra_operator.http_server import HttpServer
from toolorchestra_operator.key_queue import KeyQueue
from toolorchestra_operator.kinds import POOLS, RAY_JOB, TRAININGS
from toolorchestra_operator.liveness import Hearing, Limits, Pulse, complaints
from toolorchestra_operator.manifest import Key, Manifest
from toolorchestra_operator.metrics import Meter
from toolorchestra_operator.parents import CHILDREN, PARENTS, key_of, parent_of
from toolorchestra_operator.plan import Emit
from toolorchestra_operator.process import cancel
from toolorchestra_operator.resync import Resync
from toolorchestra_operator.settings import PREFIX, Settings, SettingsError, variable

# ── settings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_setting_can_be_given_both_ways_and_the_flag_wins() -> None:
    environ = {f"{PREFIX}WATCH_NAMESPACES": "team, other,team", f"{PREFIX}WORKERS": "7", f"{PREFIX}NATS_URL": ""}
    settings = Settings.read(["--workers", "2", "--kubeconfig=/somewhere"], environ)
    assert settings.watch_namespaces == ("team", "other")
    assert settings.workers == 2
    assert settings.kubeconfig == Path("/somewhere")
    assert settings.nats_url is None, "an empty variable is unset, as a chart writes it"


@pytest.mark.parametrize(
    "url",
    [
        *("not a url", "nats://me:s3cret@", "nats://me:s3cret@host:many", "http://me:s3cret@h", "me:s3cret@host:4222"),
        *("nats://me:s3cret and more@host", "nats://me:s3cret,more@host"),
    ],
)
def test_a_url_that_is_none_is_refused_without_its_credentials(url: str) -> None:
    with pytest.raises(
        SettingsError, match=r"--nats-url \(TOOLORCHESTRA_OPERATOR_NATS_URL\).*nats://host:4222"
    ) as told:
        Settings.read([], {f"{PREFIX}NATS_URL": url})
    assert "s3cret" not in str(told.value)


def test_what_is_written_down_of_settings_holds_no_credentials() -> None:
    nats, otlp = "nats://me:s3cret@a:1,nats://me:s3cret@b:2", "https://me:s3cret@collector:4318"
    settings = Settings.read(["--nats-url", nats, "--otlp-endpoint", otlp], {})
    written = json.loads(settings.model_dump_json())
    assert (written["nats_url"], written["otlp_endpoint"]) == ("nats://a:1,nats://b:2", "https://collector:4318")
    assert settings.otlp_endpoint == otlp
    assert "s3cret" not in f"{settings!r} {settings}"


def test_help_names_every_flag_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Settings.read(["--help"], {})
    assert ended.value.code == 0
    said = "".join(capsys.readouterr().out.split())
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in said
        assert f"[{variable(name)}]" in said


@pytest.mark.parametrize(
    ("argv", "environ", "named"),
    [
        (["--workers", "0"], {}, "--workers"),
        ([], {f"{PREFIX}RESYNC_SECONDS": "soon"}, f"{PREFIX}RESYNC_SECONDS"),
        (["--health-port", "70000"], {}, "70000"),
        (["--otlp-endpoint", "not a url"], {}, "http://collector"),
        (["--otlp-endpoint", "collector:4317"], {}, "--otlp-endpoint"),
        (["--watch-namespaces", "team-a,*"], {}, r"--watch-namespaces.*the name of a Kubernetes object.*\*"),
        (["--privileged-namespaces", "Team_A"], {}, "Team_A"),
        (["--image-pull-secrets", "a/b"], {}, "a/b"),
        (["--cpu-image", " "], {}, "--cpu-image"),
        (["--cpu-image="], {}, "--cpu-image"),
        (["--host", "not an address"], {}, "--host"),
        (["--watch-seconds", "1e12"], {}, "--watch-seconds"),
        (["--resync-seconds", "inf"], {}, "--resync-seconds"),
    ],
)
def test_a_bad_setting_is_named(argv: list[str], environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Settings.read(argv, environ)


def test_what_kubernetes_puts_into_the_environment_for_a_service_is_left_alone() -> None:
    environ = {f"{PREFIX}SERVICE_HOST": "10.0.0.1", f"{PREFIX}PORT": "tcp://10.0.0.1:8081"}
    assert Settings.read([], environ) == Settings()


# ── parents ────────────────────────────────────────────────────────────────────────────────────────────────────────


def child(owner: Mapping[str, Any] | None = None, **labels: str) -> Manifest:
    labelled = {name.replace("_", "/"): value for name, value in labels.items()}
    return {"metadata": {"namespace": "team", "name": "x", "labels": labelled, "ownerReferences": [owner or {}][:1]}}


def owner(kind: str, name: str, *, group: str = "toolorchestra.dev/v1alpha1") -> Mapping[str, Any]:
    return {"apiVersion": group, "kind": kind, "name": name, "controller": True}


@pytest.mark.parametrize(
    ("of", "key"),
    [
        (child(owner("ExpertPool", "qwen")), Key("ExpertPool", "team", "qwen")),
        (child(owner("OrchestratorTraining", "math")), Key("OrchestratorTraining", "team", "math")),
        # A RayJob's own children have another controller: their label says whose they are.
        (
            child(owner("RayJob", "math-1", group="ray.io/v1"), **{"toolorchestra.dev_training": "math"}),
            Key("OrchestratorTraining", "team", "math"),
        ),
        # A retained volume has no owner.
        (child({}, **{"toolorchestra.dev_training": "math"}), Key("OrchestratorTraining", "team", "math")),
        (child({}, **{"toolorchestra.dev_pool": "qwen"}), Key("ExpertPool", "team", "qwen")),
        (child(owner("Deployment", "qwen", group="apps/v1")), None),
        (child(owner("SomethingNew", "qwen")), None),
        ({"metadata": {"namespace": "team", "name": "x"}}, None),
    ],
)
def test_whose_a_child_is(of: Manifest, key: Key | None) -> None:
    assert parent_of(of) == key


def test_keys_and_paths_of_parents() -> None:
    pool = {"kind": "ExpertPool", "metadata": {"namespace": "team", "name": "qwen"}}
    assert key_of(pool) == Key("ExpertPool", "team", "qwen")
    assert key_of({**pool, "kind": "Pod"}) is None
    paths = {kind.kind: kind.path("team") for kind in (*PARENTS, *CHILDREN)}
    assert paths["ExpertPool"] == "/apis/toolorchestra.dev/v1alpha1/namespaces/team/expertpools"
    assert paths["ConfigMap"] == "/api/v1/namespaces/team/configmaps"
    assert PARENTS[0].path("") == "/apis/toolorchestra.dev/v1alpha1/orchestratortrainings"


# ── liveness ───────────────────────────────────────────────────────────────────────────────────────────────────────

LIMITS = Limits(stuck=600.0, silence=300.0)


def said(*workers: Pulse, oldest: float = 0.0, silent: Mapping[str, float] | None = None) -> tuple[str, ...]:
    return complaints(now=1000.0, workers=workers, oldest_key=oldest, silent=silent or {}, limits=LIMITS)


def test_an_idle_and_a_busy_worker_are_alive() -> None:
    assert said(Pulse(running=True), Pulse(running=True, busy_since=900.0), oldest=599.0, silent={"/x": 299.0}) == ()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (said(Pulse(running=True), Pulse()), "worker 1 has ended"),
        (said(Pulse(running=True, busy_since=399.0)), "worker 0 has not finished a loop for 601 s"),
        (said(Pulse(running=True), oldest=601.0), "a resource has waited for 601 s"),
        (said(Pulse(running=True), silent={"/a": 1.0, "/b": 301.0}), "the watch of /b has brought nothing for 301 s"),
    ],
)
def test_what_is_not_alive(found: tuple[str, ...], words: str) -> None:
    assert found == (words,)


def test_a_watch_that_is_opened_again_and_again_and_brings_nothing_is_silent() -> None:
    now = 0.0
    hearing = Hearing(clock=lambda: now)
    hearing.expect(["/a", "/b"])
    assert not hearing.all_open.is_set()
    for _ in range(10):
        now += 100.0
        hearing.began("/a")
        hearing.heard("/b")
    hearing.began("/b")
    assert hearing.all_open.is_set()
    assert hearing.silent == {"/a": 1000.0, "/b": 0.0}


def test_a_watch_that_is_refused_is_deaf_and_not_stuck_as_long_as_it_is_asked_for() -> None:
    now = 0.0
    hearing = Hearing(clock=lambda: now)
    hearing.expect(["/a", "/b"])
    hearing.began("/b")
    for _ in range(40):
        now += 15.0
        hearing.failed("/a", "refused")
        hearing.heard("/b")
    assert not hearing.all_open.is_set()
    hearing.refused("/no-watch", "refused")
    hearing.refused("/a", "refused")
    assert hearing.all_open.is_set(), "nobody waits for it"
    assert hearing.deaf == {"/a": "refused"}
    assert said(Pulse(running=True), silent=hearing.silent) == (), "a restart would not heal it"
    now += 301.0
    assert said(Pulse(running=True), silent={"/a": hearing.silent["/a"]}), "nobody asks for it any more"
    hearing.answered("/a")
    assert hearing.deaf == {}
    assert hearing.silent["/a"] == now, "it is open now, and has to bring something"


@pytest.mark.parametrize(
    ("stuck", "deaf", "alive", "ready"),
    [
        ((), (), (200, "yes"), (200, "yes")),
        ((), ("/a: refused",), (200, "yes"), (500, "/a: refused")),
        (
            ("worker 0 has ended",),
            ("/a: refused",),
            (500, "worker 0 has ended"),
            (500, "worker 0 has ended; /a: refused"),
        ),
    ],
)
async def test_what_a_restart_may_heal_is_death_and_the_rest_is_not_ready(
    stuck: tuple[str, ...], deaf: tuple[str, ...], alive: tuple[int, str], ready: tuple[int, str]
) -> None:
    pages = health_pages(complaints=lambda: stuck, degraded=lambda: deaf)
    for path, key, wanted in (("/healthz", "alive", alive), ("/readyz", "ready", ready)):
        answer = await pages[path]()
        assert (answer.status, json.loads(answer.text or "")) == (wanted[0], {key: wanted[1]})


# ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────

POOL: dict[str, Any] = {
    "apiVersion": "toolorchestra.dev/v1alpha1",
    "kind": "ExpertPool",
    "metadata": {"namespace": "team", "name": "qwen", "uid": "u1", "resourceVersion": "7"},
}
NEWS = Emit("Warning", "ProbeFailed", "Ready=False: the expert did not answer")


@dataclass
class Sink:
    error: ApiError | None = None
    made: list[Manifest] = field(default_factory=list)

    async def create(self, manifest: Manifest) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.made.append(manifest)
        return dict(manifest)


async def test_an_event_is_posted_once_in_ten_minutes_and_per_object() -> None:
    now, sink = 0.0, Sink()
    events = Events(sink, clock=lambda: now)
    await events.post(NEWS, about=POOL)
    await events.post(NEWS, about=POOL)
    await events.post(Emit("Normal", "Ready", ""), about=POOL)
    await events.post(NEWS, about={**POOL, "metadata": {**POOL["metadata"], "uid": "u2"}})
    assert len(sink.made) == 3
    now += 601.0
    await events.post(NEWS, about=POOL)
    assert len(sink.made) == 4


async def test_an_event_that_cannot_be_posted_is_no_failure_and_is_tried_with_the_next_plan() -> None:
    sink = Sink(Forbidden("no", verb="create", resource="events", code=403))
    events = Events(sink)
    await events.post(NEWS, about=POOL)
    sink.error = None
    await events.post(NEWS, about=POOL)
    assert len(sink.made) == 1


def test_an_event_as_the_server_wants_it() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    made = event(Emit("Normal", "Ready", "ü" * 1000), about=POOL, now=moment, instance="x" * 200)
    assert made["eventTime"] == "2026-01-02T03:04:05.000678Z"
    assert len(made["note"].encode()) == 1024
    assert len(made["reportingInstance"]) == 128
    assert made["regarding"]["uid"] == "u1"
    assert made["metadata"]["namespace"] == "team"


async def test_an_event_that_was_posted_by_the_operator_before_is_not_posted_again() -> None:
    """The same news about the same object, as it was before: the same name, whatever the time and whatever else is said
    of it: an operator that overlaps with this one has seen other words, or another condition."""
    told = [
        event(NEWS, about=POOL, now=datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC), instance="i") for second in (5, 6)
    ]
    after = {**POOL, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    another = event(NEWS, about=after, now=datetime(2026, 1, 2, tzinfo=UTC), instance="i")
    assert told[0]["metadata"]["name"] == told[1]["metadata"]["name"] != another["metadata"]["name"]
    other = {**POOL, "status": {"conditions": [{"type": "Routable", "status": "True"}]}}
    words = Emit(NEWS.type, NEWS.reason, "Ready=False: it still does not answer")
    elsewhere = event(words, about=other, now=datetime(2026, 1, 2, tzinfo=UTC), instance="another")
    assert elsewhere["metadata"]["name"] == told[0]["metadata"]["name"]
    sink = Sink(AlreadyExists("it is there", verb="create", resource="events", code=409))
    events = Events(sink)
    await events.post(NEWS, about=POOL)
    sink.error = None
    await events.post(NEWS, about=POOL)
    assert not sink.made, "it is there already"


# ── metrics ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_metrics_are_served_as_text() -> None:
    meter, port, queue = Meter(), free_port(), KeyQueue()
    queue.add(Key("ExpertPool", "team", "qwen"))
    meter.queue(depth=lambda: queue.depth, oldest=lambda: queue.oldest)
    meter.request("apply", "Deployment", "200")
    meter.resynced(ok=False)
    server = HttpServer({"/metrics": meter.answer}, host="127.0.0.1", port=port)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            lines = (await answer.text()).splitlines()
    finally:
        await server.stop()
    assert "toolorchestra_operator_queue_depth 1.0" in lines
    assert 'toolorchestra_operator_api_requests_total{code="200",resource="Deployment",verb="apply"} 1.0' in lines
    assert 'toolorchestra_operator_resyncs_total{outcome="failed"} 1.0' in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)


# ── resync ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Listing:
    """Parents by (kind, namespace)."""

    parents: Mapping[tuple[str, str], list[str]]
    error: ApiError | None = None

    async def list(self, api_version: str, kind: str, *, namespace: str = "") -> list[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        return [
            {"kind": kind, "metadata": {"namespace": namespace or "any", "name": name}}
            for name in self.parents.get((kind, namespace), [])
        ]


async def test_a_resync_puts_every_parent_on_the_queue_apart_and_sweeps() -> None:
    now, swept = 0.0, list[int]()

    async def breaks(parents: Any) -> None:
        raise ValueError("a bug")

    async def sweep(parents: Any) -> None:
        swept.append(len(parents))

    draws = iter([0.0, 0.5, 0.999])
    queue = KeyQueue(clock=lambda: now)
    listing = Listing({("ExpertPool", "a"): ["one", "two"], ("OrchestratorTraining", "b"): ["one"]})
    resync = Resync(
        api=listing,
        queue=queue,
        meter=Meter(),
        namespaces=("a", "b"),
        interval=300.0,
        sweeps=(breaks, sweep),
        draw=lambda: next(draws),
    )
    assert await resync.once()
    assert swept == [3]
    assert queue.take() == Key("ExpertPool", "a", "one")
    assert queue.take() is None, "not all at once"
    now += 30.0
    assert {queue.take(), queue.take()} == {Key("ExpertPool", "a", "two"), Key("OrchestratorTraining", "b", "one")}


async def test_a_resync_that_cannot_list_sweeps_nothing() -> None:
    async def sweep(parents: Any) -> None:
        pytest.fail("it would remove what belongs to parents that were not listed")

    listing = Listing({}, Unavailable("away", verb="list", resource="x"))
    queue = KeyQueue()
    assert not await Resync(api=listing, queue=queue, meter=Meter(), sweeps=(sweep,)).once()
    assert queue.wait() is None


# ── discovery ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Kinds:
    """What is served at each look; an error is raised."""

    looks: list[frozenset[tuple[str, str]] | ApiError]
    asked: int = 0

    async def connect(self) -> AbstractAsyncContextManager[Kinds]:
        self.now = self.looks.pop(0)
        self.asked = 0
        return nullcontext(self)

    async def served(self, api_version: str, kind: str) -> bool:
        if isinstance(self.now, ApiError):
            raise self.now
        return (api_version, kind) in self.now


OURS = frozenset([TRAININGS, POOLS])
AWAY = Unavailable("away", verb="get", resource="x")


async def test_the_process_starts_again_only_for_a_change_that_stays() -> None:
    kinds = Kinds([OURS, AWAY, frozenset(), OURS, OURS | {RAY_JOB}, AWAY, OURS | {RAY_JOB}, OURS])
    changed = Discovery(kinds.connect, interval=0.001).changed(OURS)
    assert await asyncio.wait_for(changed, 10) == OURS | {RAY_JOB}
    assert len(kinds.looks) == 1


async def test_the_first_look_waits_for_the_server() -> None:
    kinds = Kinds([AWAY, AWAY, OURS])
    assert await asyncio.wait_for(Discovery(kinds.connect, interval=0.001).first(), 10) == OURS


def test_a_change_of_kinds_in_words() -> None:
    assert words(OURS, OURS | {RAY_JOB}) == "RayJob (ray.io/v1) has come"
    assert "ExpertPool (toolorchestra.dev/v1alpha1) is gone" in words(frozenset(INTERESTING), frozenset())


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    async def broken() -> None:
        raise RuntimeError("as it is cancelled")

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(broken())]
    await asyncio.sleep(0)  # both have begun
    await asyncio.wait_for(cancel(tasks, every=0.01), 10)
    assert swallowed == 3
    assert all(task.done() for task in tasks)
    assert isinstance(tasks[1].exception(), RuntimeError)
