"""What a training becomes on one machine, and what is said where it cannot run there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.run_rig import endpoint_pool, model_folder
from toolorchestra.api.base import SecretKeyRef
from toolorchestra.api.bundle import Bundle
from toolorchestra.api.load import load
from toolorchestra.local.plan import (
    LocalError,
    LocalPlan,
    find_file,
    plan_of,
    simulated_models,
    with_simulator,
    write_resources,
)
from toolorchestra.rollout.pools import pool_file, read_pools
from toolorchestra.tasks.file_uri import relative

TRAINING = """
apiVersion: toolorchestra.dev/v1alpha1
kind: OrchestratorTraining
metadata: {name: small}
spec:
  model:
    uri: pvc://models/base
    price: {inputUSDPerMillionTokens: "0.01", outputUSDPerMillionTokens: "0.01"}
  tasks:
    sources:
    - {name: mine, type: JSONL, jsonl: {uri: pvc://models/tasks.jsonl}}
  tools:
    experts: {type: Names, names: [oak, ash]}
  queueName: research
  suspend: true
  export: {uri: s3://models/trained}
"""

TASKS = "".join(
    json.dumps({"id": f"t{i}", "instruction": f"{i}?", "grader": {"type": "ExactMatch", "data": {"answer": str(i)}}})
    + "\n"
    for i in range(40)
)

SKILLS = """
apiVersion: toolorchestra.dev/v1alpha1
kind: SkillTable
metadata: {name: trees}
spec:
  experts:
  - {name: oak-model, default: {accuracy: "0.5"}, latencyMilliseconds: {p50: 100, p99: 200}}
"""


def pool(name: str, *, url: str = "http://simulator/v1", model: str = "oak-model", key: str | None = None) -> str:
    return yaml.safe_dump(endpoint_pool(name, url=url, model=model, key=key))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Holds a model folder, as far as a plan looks, and tasks."""
    model_folder(tmp_path / "volume" / "base", context=40_000)
    (tmp_path / "volume" / "tasks.jsonl").write_text(TASKS)
    return tmp_path / "volume"


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    path = tmp_path / "skills.yaml"
    path.write_text(SKILLS)
    return path


def bundle(tmp_path: Path, *pools: str) -> Bundle:
    path = tmp_path / "training.yaml"
    path.write_text("---\n".join([TRAINING, *pools]))
    return load(path)


def plan(
    found: Bundle,
    *,
    volumes: Mapping[str, Path],
    skills: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> LocalPlan:
    return plan_of(found, name=None, volumes=volumes, skills=skills, time_scale=0.0, environment=environment or {})


@pytest.mark.parametrize(("key", "said"), [(" \n", "set SECRET_TEAM"), ("two\nlines", "has a line break")])
def test_a_key_that_no_header_can_carry_is_refused(key: str, said: str, tmp_path: Path, skills: Path) -> None:
    ash = pool("ash", url="https://models.example/v1", key="team-keys")
    environment = {"SECRET_TEAM_KEYS_API_KEY": key}
    with pytest.raises(LocalError, match=said):
        plan(bundle(tmp_path, pool("oak"), ash), volumes={}, skills=skills, environment=environment)


def test_every_problem_is_said_at_once(tmp_path: Path, skills: Path) -> None:
    oak, ash = pool("oak", model="elm"), pool("ash", url="https://models.example/v1", key="team-keys")
    with pytest.raises(LocalError) as caught:
        plan(bundle(tmp_path, oak, ash), volumes={}, skills=skills)
    model, simulated, secret, tasks = caught.value.problems
    assert "--volume models=DIR" in model
    assert "the skill table has no elm; it has oak-model" in simulated
    assert "set SECRET_TEAM_KEYS_API_KEY in the environment" in secret
    assert "pvc://models/tasks.jsonl: give the local folder of claim models" in tasks
    assert str(caught.value).splitlines() == list(caught.value.problems)


def test_tasks_that_could_not_be_solved_are_said_with_their_lines_beside_the_rest(
    tmp_path: Path, volume: Path, skills: Path
) -> None:
    """A tool that is none, no tool at all, an answer that its own grader refuses; and the model, in one go."""
    lines = [json.loads(line) for line in TASKS.splitlines()]
    lines[2]["tools"], lines[4]["tools"] = ["oka"], []
    lines[6]["grader"]["data"]["answer"] = " "
    (volume / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (volume / "base" / "config.json").unlink()
    with pytest.raises(LocalError) as caught:
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)
    model, *tasks = caught.value.problems
    assert "no config.json there" in model
    assert [line.removeprefix(f"{volume}/").split(": ")[:2] for line in tasks] == [
        ["tasks.jsonl:3", "tools.0"],
        ["tasks.jsonl:5", "tools"],
        ["tasks.jsonl:7", "grader.data.answer"],
    ]


def test_a_simulator_that_nobody_starts_is_a_problem(tmp_path: Path, volume: Path) -> None:
    with pytest.raises(LocalError, match=r"ExpertPool oak: .* --simulator skills\.yaml"):
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume})


@pytest.mark.parametrize(
    ("missing", "wanted"),
    [
        ("config.json", r"spec\.model\.uri: .*base: no config\.json there"),
        ("tokenizer.json", r"spec\.model\.uri: .*base: no tokenizer\.json"),
        ("chat_template.jinja", r"spec\.model\.uri: .*base: no chat template"),
    ],
)
def test_a_folder_that_is_no_chat_model_is_a_problem(
    tmp_path: Path, volume: Path, skills: Path, missing: str, wanted: str
) -> None:
    (volume / "base" / missing).unlink()
    with pytest.raises(LocalError, match=wanted):
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)


def test_quantized_weights_are_refused_before_anything_starts(tmp_path: Path, volume: Path, skills: Path) -> None:
    """Engine and trainer would each die of them in a way of its own."""
    file = volume / "base" / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(LocalError) as caught:
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)
    (problem,) = caught.value.problems
    assert problem.startswith(f"spec.model.uri: {file}: ")
    assert (
        "its weights are quantized (fp8), and quantized weights cannot be trained: use the model that it was made from"
        in problem
    )


@pytest.mark.parametrize(
    ("file", "content", "wanted"),
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "[1]", "want a JSON object, got list"),
        ("config.json", "null", "want a JSON object, got NoneType"),
        ("config.json", b"\xff\xfe{}", "is not UTF-8"),
        ("config.json", "[" * 100_000, "nested too deeply"),
        ("config.json", "{}", "transformers cannot read it: .*model_type"),
        ("config.json", '{"model_type": "qwen77"}', "transformers cannot read it: .*`qwen77`"),
        ("config.json", '{"model_type": 3}', "transformers cannot read it: "),
        ("config.json", '{"model_type": "qwen3", "max_position_embeddings": "long"}', "max_position_embeddings"),
        ("config.json", '{"model_type": "qwen3", "layer_types": 3}', "layer_types"),
        ("config.json", '{"model_type": "llama", "rope_parameters": [1]}', "rope_parameters"),
        ("config.json", '{"model_type": "gemma3", "text_config": 3}', "transformers cannot read it: "),
        ("config.json", '{"auto_map": {"AutoConfig": "theirs.Settings"}}', "transformers cannot read it: "),
        ("tokenizer.json", "{", "not a tokenizer: "),
        ("tokenizer_config.json", "{", "not JSON"),
        ("tokenizer_config.json", '"text"', "want a JSON object, got str"),
        ("tokenizer_config.json", b"\xff{}", "is not UTF-8"),
        ("tokenizer_config.json", '{"eos_token": 3}', "eos_token: want a text"),
        ("tokenizer_config.json", '{"eos_token": {"content": 3}}', "eos_token: want a text"),
        ("generation_config.json", "[]", "want a JSON object, got list"),
        ("generation_config.json", '{"eos_token_id": "<end>"}', "eos_token_id: want a token's number"),
        ("generation_config.json", '{"eos_token_id": [1, true]}', "eos_token_id: want a token's number"),
        ("chat_template.jinja", b"\xff", "is not UTF-8"),
        ("chat_template.jinja", "{% if %}", "does not compile"),
        ("chat_template.jinja", "words", "does not show the user's message"),
    ],
)
def test_a_damaged_file_of_the_model_is_one_message_with_its_name(
    tmp_path: Path, volume: Path, skills: Path, file: str, content: str | bytes, wanted: str
) -> None:
    damaged = volume / "base" / file
    damaged.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LocalError) as caught:
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)
    (problem,) = caught.value.problems
    assert re.match(rf"spec\.model\.uri: {re.escape(str(damaged))}: .*{wanted}", problem)
    assert "\n" not in problem


@pytest.mark.parametrize("template", ['"chat_template": 3', '"chat_template": [{"name": "default"}]'])
def test_a_chat_template_of_another_type_is_a_problem(
    tmp_path: Path, volume: Path, skills: Path, template: str
) -> None:
    (volume / "base" / "chat_template.jinja").unlink()
    (volume / "base" / "tokenizer_config.json").write_text(f'{{"eos_token": "<end>", {template}}}')
    with pytest.raises(LocalError, match=r"tokenizer_config\.json: chat_template: want a text"):
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"model_type": "gpt2", "n_positions": 40_000}, "type gpt2 .*resid_pdrop=0.1: dropout .*attn_pdrop=0.1"),
        ({"model_type": "qwen3_next"}, "type qwen3_next .*layers of type linear_attention"),
        (
            {
                "model_type": "llama",
                "max_position_embeddings": 40_000,
                "rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 4096},
            },
            "type dynamic: beyond 4096 tokens",
        ),
    ],
)
def test_a_model_that_the_trainer_would_refuse_is_a_problem(
    tmp_path: Path, volume: Path, skills: Path, settings: dict[str, Any], wanted: str
) -> None:
    """Also by what its file does not say: the family's defaults count."""
    (volume / "base" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(LocalError, match=rf"spec\.model\.uri: .*config\.json: .*{wanted}") as caught:
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.safetensors": None}, r"no weights \(\*\.safetensors\)"),
        ({"model.safetensors": b"version https://git-lfs.github.com/spec/v1"}, "not a whole .* pointer of git-lfs"),
        ({"model.safetensors": (2).to_bytes(8, "little") + b"no"}, "its header cannot be read"),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": "model-2.safetensors"}}'}, "no model-2.safetensors"),
        ({"model.safetensors.index.json": b"[]"}, "index.json: want weight_map"),
    ],
)
def test_weights_that_nobody_could_load_are_a_problem(
    files: dict[str, bytes | None], said: str, tmp_path: Path, volume: Path, skills: Path
) -> None:
    for name, content in files.items():
        (volume / "base" / name).unlink(missing_ok=True)
        if content is not None:
            (volume / "base" / name).write_bytes(content)
    with pytest.raises(LocalError, match=f"spec.model.uri: .*{said}"):
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)


def test_what_was_read_is_said_and_what_is_surely_not_meant(tmp_path: Path, volume: Path, skills: Path) -> None:
    oak, ash = pool("oak"), yaml.safe_load(pool("ash", url="http://simulater/v1"))
    ash["spec"] |= {"simulated": True, "limits": {"maxOutputTokens": 200_000}}
    found = bundle(tmp_path, oak, yaml.safe_dump(ash))
    said = plan(found, volumes={"models": volume}, skills=skills).summary
    assert any(re.fullmatch(r"tasks: \d+ to train on, \d+ held out", line) for line in said)
    assert "experts: oak, ash" in said
    assert "expert ash: simulated, but at http://simulater/v1: --simulator is the host `simulator` only" in said
    assert not [line for line in said if "never called" in line or "at once" in line]
    text = (tmp_path / "training.yaml").read_text()
    bounds = "  limits: {maxSpendUSD: '1'}\n  rollout: {episodeBudget: {maxUSD: '0.1'}}\n  queueName"
    (tmp_path / "training.yaml").write_text(text.replace("  queueName", bounds, 1))
    said = plan(load(tmp_path / "training.yaml"), volumes={"models": volume}, skills=skills).summary
    assert "expert ash: never called: a call reserves at least $0.4003, more than episodeBudget.maxUSD" in said
    assert any("allows 10 episodes at once" in line for line in said)
    assert not [line for line in said if "none is held out" in line]
    (volume / "tasks.jsonl").write_text(TASKS.replace('"grader"', '"split": "train", "grader"'))
    said = plan(load(tmp_path / "training.yaml"), volumes={"models": volume}, skills=skills).summary
    assert any("none is held out, so there will be no evaluation" in line for line in said)


def test_prompts_that_the_model_cannot_hold_are_a_problem(tmp_path: Path, volume: Path, skills: Path) -> None:
    (volume / "base" / "config.json").write_text('{"model_type": "qwen3", "max_position_embeddings": 512}')
    with pytest.raises(LocalError, match=r"maxPromptTokens \+ maxResponseTokens is \d+, but .* 512 tokens"):
        plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)


def test_a_file_with_no_skill_table_is_no_simulator(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(pool("oak"))
    with pytest.raises(LocalError, match="has 0 resources of kind SkillTable"):
        simulated_models(path)


def test_a_training_that_can_run_here(tmp_path: Path, volume: Path, skills: Path) -> None:
    ash = pool("ash", url="https://models.example/v1", key="team-keys")
    environment = {"SECRET_TEAM_KEYS_API_KEY": "k"}
    made = plan(bundle(tmp_path, pool("oak"), ash), volumes={"models": volume}, skills=skills, environment=environment)
    assert made.model_dir == (volume / "base").resolve()
    assert made.uses_simulator
    assert [pool.metadata.name for pool in made.pools] == ["oak", "ash"]
    assert {"queueName: ignored on one machine", "suspend: ignored on one machine"} <= set(made.stand_ins)
    assert "export: to export/ in the run's folder instead of s3://models/trained" in made.stand_ins
    assert any(said.startswith("messaging: a nats-server") for said in made.stand_ins)


def test_what_this_release_does_not_run_is_refused(tmp_path: Path, volume: Path, skills: Path) -> None:
    text = TRAINING.replace("  queueName", "  warmStart: {source: pvc://models/traces}\n  queueName")
    path = tmp_path / "warm.yaml"
    path.write_text("---\n".join([text, pool("oak"), pool("ash")]))
    with pytest.raises(LocalError, match=r"spec\.warmStart\.source: .* use FormatTraces"):
        plan(load(path), volumes={"models": volume}, skills=skills)


def test_only_the_simulators_pools_move_to_it(tmp_path: Path) -> None:
    found = bundle(tmp_path, pool("oak", url="http://simulator:9000/v1"), pool("ash", url="https://models.example/v1"))
    moved = [with_simulator(each, "http://127.0.0.1:4321") for each in found.pools]
    urls = [each.spec.endpoint.url for each in moved if each.spec.endpoint is not None]
    assert urls == ["http://127.0.0.1:4321/v1", "https://models.example/v1"]
    assert moved[1] is found.pools[1]


def test_the_pool_file_names_keys_and_never_holds_them(tmp_path: Path) -> None:
    found = bundle(tmp_path, pool("oak"), pool("ash", url="https://models.example/v1", key="team-keys"))
    path = tmp_path / "pools.json"
    pool_file(found.pools, workers=2).write(path)
    oak, ash = read_pools(path, environment={"SECRET_TEAM_KEYS_API_KEY": "the-key"})
    assert (oak.pool, oak.model, oak.api_key) == ("oak", "oak-model", None)
    assert (ash.pool, ash.url, ash.api_key) == ("ash", "https://models.example/v1", "the-key")
    assert "the-key" not in path.read_text()


@pytest.mark.parametrize(
    ("name", "key", "variable"),
    [("openai", "api-key", "SECRET_OPENAI_API_KEY"), ("team.keys", "token", "SECRET_TEAM_KEYS_TOKEN")],
)
def test_a_secrets_variable(name: str, key: str, variable: str) -> None:
    assert SecretKeyRef(name=name, key=key).variable == variable


def test_where_a_uri_lies() -> None:
    volumes = {"data": Path("/volumes/data")}
    assert find_file("file://some/folder", volumes) == Path("some/folder")
    assert find_file("file:///some/folder", volumes) == Path("/some/folder")
    assert find_file("file:///some%20folder/50%25", volumes) == Path("/some folder/50%")
    assert find_file("pvc://data/sub/file", volumes) == Path("/volumes/data/sub/file")
    with pytest.raises(LocalError, match="--volume other=DIR"):
        find_file("pvc://other/file", volumes)
    with pytest.raises(LocalError, match="hf:// cannot be read on one machine"):
        find_file("hf://owner/model", volumes)


def test_a_plan_has_relative_files_absolute(
    tmp_path: Path, volume: Path, skills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also under a folder whose name no URI can hold; and what the driver reads says the same from anywhere."""
    started_in = volume.rename(tmp_path / "my files, 100%")
    text = TRAINING.replace("pvc://models/base", "file://base").replace("pvc://models/tasks", "file://tasks")
    path = tmp_path / "relative.yaml"
    path.write_text("---\n".join([text, pool("oak"), pool("ash")]))
    monkeypatch.chdir(started_in)
    made = plan(load(path), volumes={}, skills=skills)
    monkeypatch.chdir(tmp_path)
    resumed = plan_of(
        load(path), name=None, volumes={}, skills=skills, time_scale=0.0, environment={}, folder=started_in
    )
    assert resumed.training == made.training
    assert made.model_dir == resumed.model_dir == started_in / "base"
    assert relative(made.training.spec.model.uri, folder=str(started_in)) == "file://base"
    assert relative("file:///elsewhere/base", folder=str(started_in)) == "file:///elsewhere/base"
    write_resources(tmp_path / "resources.yaml", made.training, made.pools)
    spec = load(tmp_path / "resources.yaml").trainings[0].spec
    source = spec.tasks.sources[0]
    assert source.jsonl is not None
    assert made.find(source.jsonl.uri) == started_in / "tasks.jsonl"
    assert made.find(spec.model.uri) == started_in / "base"


def test_the_resolved_resources_load_again(tmp_path: Path, volume: Path, skills: Path) -> None:
    made = plan(bundle(tmp_path, pool("oak"), pool("ash")), volumes={"models": volume}, skills=skills)
    path = tmp_path / "resources.yaml"
    write_resources(path, made.training, made.pools)
    again = load(path)
    assert again.trainings == (made.training,)
    assert again.pools == made.pools
