"""`orchestra render`: the operator's own decisions, printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster.pool_world import vllm_pool
from support.real_run import TINY_RUN
from support.run_rig import orchestra
from toolorchestra_operator.runtime.rendering import HIDDEN, STAND_IN_UID

TINY = TINY_RUN / "training.yaml"


def objects(*arguments: object) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(orchestra("render", *arguments).stdout) if one]


def names(found: list[dict[str, Any]]) -> list[str]:
    return [f"{one['kind']} {one['metadata']['name']}" for one in found]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A training whose second expert is served by the operator."""
    documents = list(yaml.safe_load_all(TINY.read_text()))
    documents[0]["spec"]["tools"]["experts"]["names"] = ["small", "qwen"]
    file = tmp_path / "mixed.yaml"
    file.write_text(yaml.safe_dump_all([*documents[:2], vllm_pool(cache={"type": "EphemeralClaim"})]))
    return file


def test_everything_is_there_in_the_order_in_which_it_is_made(mixed: Path) -> None:
    found = objects("-f", mixed, "-n", "team")
    assert names(found) == [
        *("Secret qwen-api-key", "PersistentVolumeClaim qwen-cache", "Service qwen-vllm", "NetworkPolicy qwen-vllm"),
        *("PodDisruptionBudget qwen-vllm", "Deployment qwen-vllm"),
        *("Secret tiny-ray", "PersistentVolumeClaim tiny-storage", "ConfigMap tiny-1", "Service tiny-1"),
        *("Job tiny-1-head", "Job tiny-1-trainers", "Job tiny-1-engines", "Deployment tiny-workers"),
    ]
    assert {one["metadata"]["namespace"] for one in found} == {"team"}
    assert not [one for one in found if "uid" in one["metadata"] or "creationTimestamp" in one["metadata"]]
    resources = next(one for one in found if one["kind"] == "ConfigMap")["data"]["resources.yaml"]
    assert "http://qwen-vllm.team.svc:8000/v1" in resources


def test_nothing_secret_is_printed(mixed: Path) -> None:
    secrets = [one for one in objects("-f", mixed) if one["kind"] == "Secret"]
    assert [one.get("data") for one in secrets] == [None, None]
    assert {value for one in secrets for value in one["stringData"].values()} == {HIDDEN}


def test_streams_are_comments(mixed: Path) -> None:
    text = orchestra("render", "-f", mixed).stdout
    assert f"# on NATS: TO_{STAND_IN_UID[:8]}_TASKS\n" in text


def test_the_operators_flags_hold() -> None:
    flags = ("--cpu-image", "mine:1", "--nats-url", "nats://mine:4222")
    head = next(one for one in objects("-f", TINY, "--", *flags) if one["metadata"]["name"] == "tiny-1-head")
    container = head["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "mine:1"
    assert {"name": "NATS_URL", "value": "nats://mine:4222"} in container["env"]
    assert "--workers" in orchestra("render", "-f", TINY, "--", "--workers", "many", status=2).stderr


def test_what_would_be_refused_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text(TINY.read_text().replace("pvc://models/tiny", "s3://bucket/tiny"))
    done = orchestra("render", "-f", file, status=1)
    assert "OrchestratorTraining default/tiny would be refused: InvalidSpec: spec.model.uri" in done.stderr
    assert "kind:" not in done.stdout


def test_a_suspended_training_is_shown_as_if_it_ran(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text(TINY.read_text().replace("spec:\n  model:", "spec:\n  suspend: true\n  model:"))
    assert names(objects("-f", file)) == names(objects("-f", TINY))


def test_mistakes_in_the_files_are_all_said(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text(TINY.read_text().replace("steps: 10", "steps: many"))
    assert "spec.algorithm.steps: want an integer" in orchestra("render", "-f", file, status=2).stderr
    assert "no files given" in orchestra("render", status=2).stderr


def test_a_namespace_said_twice_must_be_one(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text(TINY.read_text().replace("metadata: {name: tiny}", "metadata: {name: tiny, namespace: other}"))
    assert "names namespace other, but -n names team" in orchestra("render", "-f", file, "-n", "team", status=2).stderr


def test_a_provider_is_what_the_cluster_has(tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    text = TINY.read_text().replace("spec:\n  model:", "spec:\n  queueName: q\n  ray: {provider: KubeRay}\n  model:", 1)
    file.write_text(text)
    assert "RayProviderUnavailable" in orchestra("render", "-f", file, status=1).stderr
    assert "RayJob tiny-1" in names(objects("-f", file, "--kuberay"))


@pytest.mark.parametrize(
    "text", ["3491754e1", "1e5", "-1E+5", ".5e3", "1_0e5", "0o17", "-0o7", "0X1F", "0B1", "y", "12"]
)
def test_texts_stay_texts_for_kubectl(text: str) -> None:
    """Its parser takes more for numbers and booleans than PyYAML, which writes most of these without quotes."""
    printed = orchestra("render", "-f", TINY, "--", f"--cpu-image={text}").stdout
    assert f'image: "{text}"\n' in printed.replace("'", '"')
