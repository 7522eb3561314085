"""The chart on a real node, from `helm install` to `helm uninstall`: trainings complete, whatever dies on the way.

The tests are one story, told in order: each finds the release as the one before it left it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from support.cluster.timeline import Timeline
from support.real_run import TINY_RUN
from support.release import CORE, NAME, PLURALS, RESEARCH, SYSTEM, Release, orphans, services
from testbed.api import Refused
from testbed.cluster import CHECKOUT
from toolorchestra.ledger.history import account, read_history
from toolorchestra.ledger.journal import read_frames
from toolorchestra.runs.run_dir import RunDir

pytestmark = pytest.mark.timeout(3000)

FIRST = "orchestrator-whose-name-has-forty-chars0"
"""As long as a name may be: everything that is made of it must still have a name that is allowed."""
SECOND = "survivor"
STEPS, MANY_STEPS = 20, 150
ALIASES = ["amber", "bridge", "camel", "coral", "desert", "drum", "fern", "forest"]
"""Words that the demo's model has tokens for."""


def pools() -> list[dict[str, Any]]:
    """`small` is a real vLLM, `large` the chart's simulator."""
    _, small, large = yaml.safe_load_all((TINY_RUN / "training.yaml").read_text())
    small["spec"] |= {
        "type": "VLLM",
        "simulated": False,
        "limits": {"maxInputTokens": 1500, "maxOutputTokens": 64},
        "vllm": {
            "model": {"uri": "file:///models/demo"},
            "resources": {"requests": {"cpu": "50m", "memory": "512Mi"}},
            "drainSeconds": 5,
        },
    }
    del small["spec"]["endpoint"]
    large["spec"]["endpoint"]["url"] = f"http://simulator.{SYSTEM}.svc/v1"
    return [small, large]


def training(name: str, *, provider: str, steps: int = STEPS) -> dict[str, Any]:
    """The tiny training with the demo's model, which learns to call an expert before it learns which."""
    found: dict[str, Any] = next(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
    small = {"resources": {"requests": {"cpu": "50m", "memory": "512Mi"}}}
    spec = found["spec"]
    found["metadata"]["name"] = name
    spec["model"]["uri"] = "file:///models/demo"
    spec["rollout"] |= {"maxPromptTokens": 900, "maxResponseTokens": 32, "workers": 1}
    spec["warmStart"] = {"steps": 40, "source": "FormatTraces", "learningRate": "0.0005", "batchSize": 16}
    spec["tools"]["randomize"] = {"aliases": True, "aliasNames": ALIASES}
    spec["algorithm"] |= {"steps": steps, "groupSize": 4, "groupsPerStep": 4}
    spec["ray"] = {"provider": provider, "head": small, "trainers": small, "engines": small}
    spec["storage"] = {"type": "EphemeralClaim", "ephemeralClaim": {"size": "1Gi"}}
    spec["checkpoint"] = {"everySteps": 2, "keep": 3}
    return found


def apply(release: Release, *documents: dict[str, Any]) -> None:
    file = release.folder / "resources.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    release.kubectl("apply", "--server-side", "-f", str(file))


def run_dir(release: Release, status: dict[str, Any]) -> RunDir:
    """The run on the training's volume, as the exported model's address names it."""
    claim, _, path = status["exportURI"].removeprefix("pvc://").partition("/")
    return RunDir((release.volume(claim) / path).parent.parent)


def assert_exact(run: RunDir, *, steps: int = STEPS) -> None:
    """The ledger, from the journal alone."""
    history = read_history(read_frames(run.journal))
    count = account(history)
    assert count.exact
    assert count.open == 0, "every accepted episode came to an end"
    assert sorted(history.steps) == list(range(1, steps + 1)), "every step happened once in the surviving history"


def test_a_training_completes_with_a_real_expert(release: Release) -> None:
    apply(release, *pools())
    for pool in pools():
        name = pool["metadata"]["name"]
        release.until(f"pool {name} is ready", lambda n=name: release.condition("ExpertPool", n, "Ready") == "True")
    with Timeline(release.cluster.api, RESEARCH, FIRST) as timeline:
        apply(release, training(FIRST, provider=release.provider))
        done = release.complete(FIRST)
        parts = ("trainers", "engines", "workers")
        release.until("compute is given back", lambda: not any(map(release.pods, parts)))
    timeline.write(CHECKOUT / f".bench/e2e/timeline-{release.provider}.md")
    assert (done["step"], done["attempt"], done["restarts"], done["progressPercentage"]) == (STEPS, 1, 0, 100)
    assert {"reward", "accuracy", "usdPerTask"} <= done["metrics"].keys()
    assert float(done["metrics"]["accuracy"]) > 0, "`large` is right nine times out of ten"
    assert float(done["spentUSD"]) > 0
    assert done["checkpoint"]["step"] == STEPS
    assert {one["name"]: one["model"] for one in done["experts"]} == {"small": "file:///models/demo", "large": "large"}
    run = run_dir(release, done)
    assert_exact(run)
    assert (run.export / "last" / "model.safetensors").stat().st_size > 1_000_000
    for pool in ("small", "large"):
        measured = release.until(f"{pool} is measured", lambda n=pool: release.status("ExpertPool", n).get("measured"))
        assert measured["errorRate"] == "0"
        assert measured["latencyMillisecondsP50"] <= measured["latencyMillisecondsP99"]
    reasons = {one["reason"] for one in release.items("events", group="/apis/events.k8s.io/v1")}
    assert {"Accepted", "StreamsReady", "StepsDone"} <= reasons


def test_one_trace_holds_an_episode_from_controller_to_expert(release: Release) -> None:
    wanted = {"toolorchestra-controller", "toolorchestra-worker", "toolorchestra-policy", "toolorchestra-expert"}

    def whole() -> list[dict[str, Any]]:
        return [one for one in release.traces("toolorchestra-expert") if wanted <= services(one) and not orphans(one)]

    (release.folder / "traces.json").write_text(json.dumps(release.traces("toolorchestra-expert")[:20]))
    (trace, *_) = release.until("an episode's whole trace", whole, seconds=120)
    roots = [span["operationName"] for span in trace["spans"] if not span["references"]]
    assert roots == ["episode"], "one root"


def test_what_kubectl_prints_reads_well(release: Release) -> None:
    shown = release.kubectl("get", "ot,xp")
    assert f"orchestratortraining.toolorchestra.dev/{FIRST}" in shown
    assert "Complete" in shown
    described = release.kubectl("describe", "ot", FIRST)
    assert "all steps are done and the model is exported" in described
    assert "StepsDone" in described


def test_the_command_line_tells_of_it_and_brings_the_model(release: Release) -> None:
    assert FIRST in release.orchestra("status")
    told = json.loads(release.orchestra("status", FIRST, "--output", "json"))
    assert (told["step"], told["name"]) == (STEPS, FIRST)
    folder = release.folder / "model"
    release.orchestra("get-model", FIRST, "--to", str(folder))
    export = run_dir(release, release.status("OrchestratorTraining", FIRST)).export / "last"
    files = {path.name for path in export.iterdir()}
    assert {path.name for path in folder.iterdir()} == files
    assert (folder / "model.safetensors").read_bytes() == (export / "model.safetensors").read_bytes()


def delete_pod(release: Release, component: str, *, namespace: str = RESEARCH) -> Callable[[], bool]:
    """End the newest pod of a component as a lost node would; whether another one runs in its place."""
    pod = release.pods(component, namespace=namespace)[-1]
    path = release.path("pods", pod["metadata"]["name"], group=CORE, namespace=namespace)
    release.cluster.api.delete(path, gracePeriodSeconds="0")
    gone = pod["metadata"]["uid"]

    def replaced() -> bool:
        others = [one for one in release.pods(component, namespace=namespace) if one["metadata"]["uid"] != gone]
        return any(one["status"].get("phase") == "Running" for one in others)

    return replaced


def test_every_kind_of_pod_dies_once_and_the_training_completes(release: Release) -> None:
    apply(release, training(SECOND, provider=release.provider, steps=MANY_STEPS))
    step = lambda: int(release.status("OrchestratorTraining", SECOND).get("step") or 0)  # noqa: E731
    release.until("a checkpoint", lambda: step() >= 3)
    for component, namespace in (
        ("workers", RESEARCH),
        ("vllm", RESEARCH),
        ("nats", SYSTEM),
        ("operator", SYSTEM),
        ("engines", RESEARCH),
        ("trainers", RESEARCH),
        ("head", RESEARCH),
    ):
        before = step()
        release.until(f"{component} is replaced", delete_pod(release, component, namespace=namespace))
        print(f"e2e: {component} died at step {before}", flush=True)
    asyncio.run(release.cluster.plane.restart_api_server(down=2.0, kill=True))
    done = release.complete(SECOND)
    assert (done["step"], done["restarts"]) == (MANY_STEPS, 0), "lost pods are nobody's failure"
    said = {one["type"]: one["status"] for one in done["conditions"]}
    assert (said["Accepted"], said["Complete"], said["Running"], said["Suspended"]) == (
        "True",
        "True",
        "False",
        "False",
    )
    assert_exact(run_dir(release, done), steps=MANY_STEPS)


def test_helm_test_trains(release: Release) -> None:
    said = release.helm("test", NAME, "--timeout", "20m")
    assert "Failed" not in said
    assert said.count("Phase:          Succeeded") == said.count("TEST SUITE:") > 0


def test_uninstalling_leaves_the_models_and_nothing_else(release: Release) -> None:
    api = release.cluster.api
    release.kubectl("delete", "ot,xp", "--all", "--timeout=300s")
    claims = {one["metadata"]["name"] for one in release.items("persistentvolumeclaims")}
    assert claims == {f"{name}-storage" for name in (FIRST, SECOND)}, "the models outlive the resources"
    release.helm("uninstall", NAME, "--wait", "--timeout", "5m")
    release.until("what was owned is gone", lambda: not left(release))
    with pytest.raises(Refused):
        api.get(release.path(PLURALS["ExpertPool"]))
    names = lambda path: [one["metadata"]["name"] for one in api.get(path)["items"]]  # noqa: E731
    for kind in ("clusterroles", "clusterrolebindings"):
        found = names(f"/apis/rbac.authorization.k8s.io/v1/{kind}")
        assert [one for one in found if NAME in one] == []


def left(release: Release) -> list[str]:
    """What is in the release's two namespaces that Kubernetes does not put into every one; the models' claims aside."""
    kinds = {
        CORE: ("pods", "services", "configmaps", "secrets", "serviceaccounts"),
        "/apis/apps/v1": ("deployments", "statefulsets", "replicasets"),
        "/apis/batch/v1": ("jobs",),
        "/apis/rbac.authorization.k8s.io/v1": ("roles", "rolebindings"),
        "/apis/networking.k8s.io/v1": ("networkpolicies",),
        "/apis/policy/v1": ("poddisruptionbudgets",),
    }
    found = [
        f"{kind}/{one['metadata']['name']}"
        for namespace in (SYSTEM, RESEARCH)
        for group, names in kinds.items()
        for kind in names
        for one in release.items(kind, group=group, namespace=namespace)
    ]
    claims = release.items("persistentvolumeclaims", namespace=SYSTEM)
    found += [f"persistentvolumeclaims/{one['metadata']['name']}" for one in claims]
    return [one for one in found if one not in ("configmaps/kube-root-ca.crt", "serviceaccounts/default")]
