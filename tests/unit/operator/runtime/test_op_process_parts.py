"""The small parts of the operator's process: settings, parents, liveness, events, metrics, resync, discovery."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from toolorchestra_operator.kubernetes.manifest import Key, Manifest
from toolorchestra_operator.runtime.health import health_pages
from toolorchestra_operator.runtime.liveness import Limits, Pulse, WatchHealth, complaints
from toolorchestra_operator.runtime.parents import CHILDREN, PARENTS, key_of, parent_of
from toolorchestra_operator.runtime.settings import PREFIX, Settings, SettingsError, variable

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
    paths = {kind.name: kind.path(namespace="team") for kind in (*PARENTS, *CHILDREN)}
    assert paths["ExpertPool"] == "/apis/toolorchestra.dev/v1alpha1/namespaces/team/expertpools"
    assert paths["ConfigMap"] == "/api/v1/namespaces/team/configmaps"
    assert PARENTS[0].path() == "/apis/toolorchestra.dev/v1alpha1/orchestratortrainings"


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
    watch_health = WatchHealth(clock=lambda: now)
    watch_health.expect(["/a", "/b"])
    assert not watch_health.all_open.is_set()
    for _ in range(10):
        now += 100.0
        watch_health.began("/a")
        watch_health.heard("/b")
    watch_health.began("/b")
    assert watch_health.all_open.is_set()
    assert watch_health.silent == {"/a": 1000.0, "/b": 0.0}


def test_a_watch_that_is_refused_is_deaf_and_not_stuck_as_long_as_it_is_asked_for() -> None:
    now = 0.0
    watch_health = WatchHealth(clock=lambda: now)
    watch_health.expect(["/a", "/b"])
    watch_health.began("/b")
    for _ in range(40):
        now += 15.0
        watch_health.failed("/a", "refused")
        watch_health.heard("/b")
    assert not watch_health.all_open.is_set()
    watch_health.refused("/no-watch", "refused")
    watch_health.refused("/a", "refused")
    assert watch_health.all_open.is_set(), "nobody waits for it"
    assert watch_health.deaf == {"/a": "refused"}
    assert said(Pulse(running=True), silent=watch_health.silent) == (), "a restart would not heal it"
    now += 301.0
    assert said(Pulse(running=True), silent={"/a": watch_health.silent["/a"]}), "nobody asks for it any more"
    watch_health.answered("/a")
    assert watch_health.deaf == {}
    assert watch_health.silent["/a"] == now, "it is open now, and has to bring something"


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
