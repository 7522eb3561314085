"""`orchestra plan` without a cluster, and which cluster the command line takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.real_run import TINY_RUN
from support.run_rig import orchestra

TINY = TINY_RUN / "training.yaml"


@pytest.fixture(autouse=True)
def _no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own cluster is asked."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def kubeconfig(path: Path, *contexts: str, server: str = "https://127.0.0.1:1", **context: str) -> Path:
    given: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": contexts[0]}
    given |= {"clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}]}
    given |= {"contexts": [{"name": name, "context": {"cluster": "c", "user": "u", **context}} for name in contexts]}
    path.write_text(yaml.safe_dump(given))
    return path


def test_the_files_alone_are_a_plan() -> None:
    done = orchestra("plan", "-f", TINY)
    assert "namespace default\n" in done.stdout
    assert "checked the files only: no cluster" in done.stdout
    assert done.stdout.endswith("plan: nothing is missing\n")


def test_a_cap_without_room_is_status_1(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(TINY.read_text().replace("spec:\n  model:", 'spec:\n  limits: {maxSpendUSD: "0.01"}\n  model:', 1))
    done = orchestra("plan", "-f", file, status=1)
    assert "MISSING  spend" in done.stdout
    assert done.stdout.endswith("plan: 1 thing is missing\n")


def test_what_the_operator_would_refuse_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(TINY.read_text().replace("pvc://models/tiny", "s3://bucket/tiny"))
    assert "the operator would say InvalidSpec: spec.model.uri" in orchestra("plan", "-f", file, status=1).stdout


def test_memory_is_planned_part_by_part(tmp_path: Path) -> None:
    gpu = "{limits: {nvidia.com/gpu: 1}}"
    ray = f"ray: {{trainers: {{resources: {gpu}}}, placement: Shared}}"
    file = tmp_path / "t.yaml"
    text = TINY.read_text().replace("pvc://models/tiny", "hf://Qwen/Qwen3-8B")
    file.write_text(text.replace("spec:\n  model:", f"spec:\n  {ray}\n  model:", 1))
    said = orchestra("plan", "-f", file, "--offline", "--gpu-memory", "79Gi", status=1).stdout
    assert "MISSING  memory     tiny trainer and engine (1 GPU): " in said
    assert "-> 3 GPUs: spec.ray.trainers.replicas and engines.replicas 3, placement Shared" in said
    for part in ("gradients (float32): 30.5 GiB", "activations of", "head, ", "engine: keys and values", "slack"):
        assert part in said


def test_json_for_scripts() -> None:
    said = json.loads(orchestra("plan", "-f", TINY, "--offline", "-n", "team", "-o", "json").stdout)
    assert (said["ok"], said["cluster"]) == (True, None)
    assert {line["namespace"] for line in said["lines"]} == {"team"}
    assert {"level", "about", "text", "remedy", "namespace"} == set(said["lines"][0])


def test_a_cluster_that_does_not_answer_is_missing(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path / "config", "lab", namespace="team")
    done = orchestra("plan", "-f", TINY, "--kubeconfig", config, status=1)
    assert "namespace team on https://127.0.0.1:1 (context lab)" in done.stdout
    assert "cannot reach the API server at https://127.0.0.1:1 (context lab): " in done.stdout
    assert "--offline" in done.stdout


def test_a_context_that_is_not_there(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path / "config", "lab", "prod")
    said = orchestra("plan", "-f", TINY, "--kubeconfig", config, "--context", "pord", status=1).stderr
    assert "--context pord" in said
    assert "lab, prod" in said
    assert "no such file" in orchestra("plan", "-f", TINY, "--kubeconfig", tmp_path / "no", status=1).stderr


def test_without_the_client_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes.client", None)
    done = orchestra("plan", "-f", TINY)
    assert "pip install 'toolorchestra[client]'" in done.stdout


def test_a_wrong_amount_of_memory_is_said() -> None:
    assert "--gpu-memory 80 GB" in orchestra("plan", "-f", TINY, "--gpu-memory", "80 GB", status=2).stderr
    assert "1e40: is more than any GPU has" in orchestra("plan", "-f", TINY, "--gpu-memory", "1e40", status=2).stderr
    assert "80: is 80 bytes" in orchestra("plan", "-f", TINY, "--gpu-memory", "80", status=2).stderr


def test_status_without_a_name_and_a_cluster_asks_for_a_run() -> None:
    assert "orchestra runs list" in orchestra("status", status=2).stderr


CLIENT_ALONE = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[2].split(","):
    importlib.import_module(name)
"""


def test_a_machine_that_only_talks_to_clusters_needs_no_trainer() -> None:
    absent = (
        "torch,ray,vllm,transformers,tokenizers,numpy,msgpack,zstandard,reasoning_gym,jinja2,kopf,prometheus_client"
    )
    commands = "plan,render,submit,status,logs,cancel,suspend,resume,get_model,training_logs,training_status"
    modules = [f"toolorchestra.cli.{command}" for command in commands.split(",")]
    modules += [
        "toolorchestra_operator.runtime.rendering",
        "toolorchestra.cluster_client.preflight.spend",
        "toolorchestra.cluster_client.execute",
    ]
    subprocess.run([sys.executable, "-c", CLIENT_ALONE, absent, ",".join(modules)], check=True, timeout=120)
