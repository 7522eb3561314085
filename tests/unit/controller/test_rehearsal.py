"""Before anything is started, a task of each mode is played for a turn: what a model cannot carry is said by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from support.episode_world import RENDERER
from support.run_rig import model_folder
from toolorchestra.api.conditions import Reason
from toolorchestra.api.load import load
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.controller.incarnation.assignment import Assignment, assignment_of
from toolorchestra.controller.incarnation.model_check import check_model
from toolorchestra.controller.instances import Instances
from toolorchestra.controller.pauses import Paused
from toolorchestra.controller.rehearsal import RehearsalError, one_of_each_kind, rehearse
from toolorchestra.controller.settings import SettingsError, settings_of
from toolorchestra.local.plan import LocalError, plan_of
from toolorchestra.policy.renderer import Renderer
from toolorchestra.policy.template import ChatTemplate
from toolorchestra.runs.run_dir import RunDir, read_jsonl
from toolorchestra.tasks.file_uri import path_of

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests" / "support" / "tiny_run" / "training.yaml"


def resources(folder: Path, *, kinds: tuple[str, ...] = ("QA", "Chat"), prompt_tokens: int = 4000) -> Path:
    """The tiny training, over tasks of these kinds in turn and the model folder beside them."""
    grader = {"type": "ExactMatch", "data": {"answer": "4"}}
    rows = [
        {"id": f"t{i}", "instruction": f"{i} + {i}?", "kind": kinds[i % len(kinds)], "grader": grader}
        for i in range(40)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = "{name: mine, type: JSONL, jsonl: {uri: file://TASKS}}".replace("TASKS", str(folder / "tasks.jsonl"))
    text = TINY.read_text().replace("pvc://models/tiny", f"file://{folder / 'model'}")
    text = text.replace(
        "{name: sums, type: ReasoningGym, reasoningGym: {datasets: [chain_sum], size: 200, seed: 1}}", source
    )
    text = text.replace("maxPromptTokens: 1500", f"maxPromptTokens: {prompt_tokens}")
    text = text.replace("maxResponseTokens: 24", "maxResponseTokens: 500")  # the tests' tokens are bytes
    path = folder / "training.yaml"
    path.write_text(text.replace("http://simulator/v1", "http://models.example/v1"))
    return path


def world_of(folder: Path, **settings: Any) -> Instances:
    bundle = load(resources(folder, **settings))
    training = bundle.trainings[0]
    return settings_of(training, bundle.experts(training.spec.tools), find=path_of).instances


def renderer_of(source: str) -> Renderer:
    template = ChatTemplate({"default": source}, special_tokens={})
    return Renderer(tokenizer=RENDERER._tokenizer, template=template, stop_token_ids=RENDERER.stop_token_ids)


def without_bytes(folder: Path) -> None:
    """A tokenizer that can write nothing."""
    Tokenizer(models.BPE(vocab={"<end>": 0}, merges=[])).save(str(folder / "tokenizer.json"))


def test_a_model_that_has_everything_is_not_spoken_of(tmp_path: Path) -> None:
    instances = world_of(tmp_path)
    assert {instance.task.kind for instance in one_of_each_kind(instances)} == {"QA", "Chat"}
    assert rehearse(instances, RENDERER) == ()


def test_what_is_laid_out_for_a_template_is_said(tmp_path: Path) -> None:
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    (note,) = rehearse(world_of(tmp_path), renderer_of(bare))
    assert note == "its chat template renders no tools: they go into the system message, in Hermes form"


def test_a_template_that_rewrites_history_is_said_of_chats_alone(tmp_path: Path) -> None:
    counting = "{% for m in messages %}{{ messages | length }}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    assert "sample of its own" in rehearse(world_of(tmp_path), renderer_of(counting))[-1]
    assert not any("sample of its own" in note for note in rehearse(world_of(tmp_path, kinds=("QA",)), RENDERER))


def test_an_answer_limit_that_cuts_every_call_is_said(tmp_path: Path) -> None:
    instances = world_of(tmp_path)
    limits = instances.limits.model_copy(update={"max_response_tokens": 8})
    notes = rehearse(replace(instances, limits=limits), RENDERER)
    assert len(notes) == 2
    assert all("more than maxResponseTokens (8)" in note for note in notes)


def test_a_first_prompt_over_the_limit_is_said(tmp_path: Path) -> None:
    notes = rehearse(world_of(tmp_path, prompt_tokens=50), RENDERER)
    assert len(notes) == 2
    assert all("more than maxPromptTokens (50)" in note for note in notes)


def test_a_tokenizer_with_tokens_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    """An engine would refuse every prompt, and each such episode would count as an engine that was lost."""
    instances = world_of(tmp_path)
    assert rehearse(instances, RENDERER, vocabulary=1000) == rehearse(instances, RENDERER)
    with pytest.raises(RehearsalError, match="model has only 32 embeddings"):
        rehearse(instances, RENDERER, vocabulary=32)


def test_a_template_that_breaks_on_a_tools_turn_alone_is_refused(tmp_path: Path) -> None:
    refusing = (
        "{% for m in messages %}{% if loop.length > 3 and 'be-the-system' != messages[0].content %}"
        "{{ raise_exception('too long a talk') }}{% endif %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(RehearsalError, match=r"Chat tasks: .*too long a talk"):
        rehearse(world_of(tmp_path), renderer_of(refusing))
    assert rehearse(world_of(tmp_path, kinds=("QA",)), renderer_of(refusing)), "no chat, no tool turn"


def test_a_check_refuses_a_model_that_cannot_write_the_experts(tmp_path: Path) -> None:
    without_bytes(model_folder(tmp_path / "model", context=9000))
    with pytest.raises(LocalError, match=r"spec\.model\.uri: .*model: QA tasks: the prompt does not show the experts"):
        plan_of(
            load(resources(tmp_path, kinds=("QA",))),
            name=None,
            volumes={},
            skills=None,
            time_scale=0.0,
            environment={},
        )


def assignment(folder: Path) -> Assignment:
    config = DriverConfig(
        uid="u",
        run=folder / "run",
        nats_url="",
        ray_address="",
        resources=(resources(folder),),
        model_dir=folder / "model",
        cluster=True,
    )
    return assignment_of(config, RunDir(config.run))


def test_the_head_says_the_same_at_its_start_and_refuses_by_name(tmp_path: Path) -> None:
    model_folder(tmp_path / "model")
    given = assignment(tmp_path)
    check_model(given)
    (event,) = read_jsonl(given.run.events)
    assert event["event"] == "template"
    assert "renders no tools" in event["message"]
    without_bytes(tmp_path / "model")
    with pytest.raises(SettingsError, match=r"spec\.model\.uri: file://.*: the prompt does not show the experts"):
        check_model(given)


def test_the_head_refuses_a_model_by_its_settings_before_engines_start(tmp_path: Path) -> None:
    model_folder(tmp_path / "model")
    given = assignment(tmp_path)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen3_next"}')
    with pytest.raises(Paused, match=r"qwen3_next cannot be trained here: .* linear_attention") as caught:
        check_model(given)
    assert caught.value.reason is Reason.MODEL_REFUSED
    (tmp_path / "model" / "config.json").write_text("[]")
    with pytest.raises(SettingsError, match=r"spec\.model\.uri: .*config\.json: want a JSON object"):
        check_model(given)


def test_a_tokenizer_that_knows_the_call_only_after_a_thought_is_not_called_too_long() -> None:
    """The demo's: three tokens there, 38 where nothing stands before."""
    demo = ROOT / "examples/demo"
    bundle = load([demo / "training.yaml", demo / "pools.yaml"])
    instances = settings_of(bundle.trainings[0], bundle.pools, find=path_of, references=False).instances
    assert instances.limits.max_response_tokens == 32
    assert not [note for note in rehearse(instances, Renderer.load(demo / "base")) if "maxResponseTokens" in note]
