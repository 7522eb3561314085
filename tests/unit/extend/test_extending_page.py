"""The examples of docs/extending.md, as they stand there, through the real parts."""

from __future__ import annotations

import importlib
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.episode_world import LIMITS, RENDERER, VIEW, FakeExperts, answer, ask, host_of, order_of, play
from support.plugin_package import ROOT, blocks
from support.run_rig import model_folder, orchestra
from toolorchestra.api.load import load
from toolorchestra.api.task_sources import Tasks
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.contract.exit_status import EXIT_CODES
from toolorchestra.controller.assemble import SampleFilters
from toolorchestra.controller.instances import Instance
from toolorchestra.controller.rewarding import Rewarding
from toolorchestra.controller.settings import step_config
from toolorchestra.extend import Reason
from toolorchestra.pods.head import last_words
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rewards.registry import RewardConfig
from toolorchestra.rollout.trace import Ending
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.tasks.build import build_suite
from toolorchestra.tasks.judge import Judge
from toolorchestra.tasks.source import SourceError
from toolorchestra.tasks.task import GraderSpec, Task
from toolorchestra.tools.catalog import Catalog, ExpertTool
from toolorchestra.tools.sampler import ViewSampler
from toolorchestra.tools.view import Price
from toolorchestra.trainer.batch import StepConfig
from toolorchestra.trainer.trainer import Trainer, TrainerConfig

pytestmark = pytest.mark.usefixtures("acme")

PRICE = Price(per_call_usd=Decimal("0.01"))


def quick_start() -> list[dict[str, Any]]:
    """The training of the quick start and its experts, as documents."""
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text.split("```yaml\n")[1].split("```")[0]))


def merged(base: Any, over: Any) -> Any:
    """`base` with what `over` gives, key by key."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: merged(base.get(key), value) for key, value in over.items()}


def training(folder: Path, **changes: Any) -> Path:
    """The quick start's training with the page's YAML, and `changes` of its spec, as a file."""
    first, *pools = quick_start()
    documents = [merged(merged(first, yaml.safe_load(blocks("yaml")[0])), {"spec": changes}), *pools]
    path = folder / "training.yaml"
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return path


async def test_the_grader_through_the_judge(tmp_path: Path) -> None:
    (line,) = blocks("json")
    task = Task.model_validate({**json.loads(line), "source": "file"})
    judge = Judge()
    try:
        assert [(await judge(task, said)).outcome for said in ("3.14", "3", "pi", None)] == [1, 0, 0, 0]
    finally:
        await judge.close()
    path = tmp_path / "tasks.jsonl"
    path.write_text(line, encoding="utf-8")
    sources = {"sources": [{"name": "file", "type": "JSONL", "jsonl": {"uri": "file:///x"}}]}
    suite = build_suite(Tasks.model_validate(sources), open_uri=lambda _: path, seed=0, evaluation=True)
    assert [each.id for each in suite.held_out(9)] == ["pi"]
    path.write_text(line.replace('"within"', '"width"'), encoding="utf-8")
    with pytest.raises(SourceError, match=r"x?tasks\.jsonl:1: grader\.data\.width: Extra inputs"):
        build_suite(Tasks.model_validate(sources), open_uri=lambda _: path, seed=0, evaluation=True)


def sums(**parameters: Any) -> Tasks:
    plugin = {"name": "acme-orchestra/Sums", "parameters": parameters}
    return Tasks.model_validate({"sources": [{"name": "sums", "type": "Plugin", "plugin": plugin}]})


def test_the_source_through_a_suite() -> None:
    suite = build_suite(sums(size=40), open_uri=Path, seed=0)
    assert suite.train_size + suite.held_out_size == 40
    task = suite.train_task(0)
    a, b = map(int, task.instruction.rstrip("?").split(" + "))
    assert task.grader.data == {"answer": a + b}
    assert task.source == "sums"
    assert build_suite(sums(size=40), open_uri=Path, seed=0).train_task(7) == suite.train_task(7)
    with pytest.raises(SourceError, match=r"source sums: acme-orchestra/Sums: no parameter width; there are size"):
        build_suite(sums(width=3), open_uri=Path, seed=0)


async def test_the_combiner_through_the_real_rewarding() -> None:
    """Two siblings are right, one of them dear; one is wrong."""
    task = Task(id="t", instruction="2 + 2?", source="s", grader=GraderSpec(type="ExactMatch", data={"answer": "4"}))
    replies: list[str] = [r"\boxed{4}", r"\boxed{4}", r"\boxed{5}"]
    traces = []
    for alias, reply in zip(("oak", "elm", "oak"), replies, strict=True):
        experts = FakeExperts(dict.fromkeys(("pool-cheap", "pool-dear"), reply))
        traces.append(await play(order_of(task), host_of([answer(alias)], experts=experts)))
    rewarding = Rewarding(RewardConfig(combiner="acme-orchestra/Cheapest"), SampleFilters(True, True))
    samples, (reward,) = rewarding.batch([(Instance(task, VIEW), traces)], version=PolicyVersion(0, 0))
    assert reward.rewards == (1.0, 0.5, 0.0)
    assert reward.keep
    assert [sample.advantage for sample in samples] == pytest.approx([1, 0, -1])
    assert not rewarding.judge(rewarding.components(Instance(task, VIEW), traces[:1] * 3)).keep


def test_the_objective_through_a_real_step(tiny: Path, tmp_path: Path) -> None:
    from support.train_samples import random_batch

    config = step_config(load(training(tmp_path)).training().spec)
    assert config.objective == "acme-orchestra/Truncated"
    results = {}
    for objective in ("acme-orchestra/Truncated", "Clipped"):
        for budget in (130, 100_000):
            trainer = Trainer(TrainerConfig(model_dir=str(tiny), device="cpu", threads=1))
            settings = StepConfig(lr=1e-3, objective=objective, token_budget=budget)
            before = next(trainer.full_tensors())[1].clone()
            results[objective, budget] = trainer.step(random_batch(3, 12), settings)
            assert not before.equal(next(trainer.full_tensors())[1]), "the step changes the weights"
    cut, whole = results["acme-orchestra/Truncated", 130], results["acme-orchestra/Truncated", 100_000]
    assert cut.micro_batches > whole.micro_batches == 1
    assert cut.loss == pytest.approx(whole.loss, abs=1e-5)
    ours = results["Clipped", 100_000]
    assert (whole.entropy, whole.ratio_mean, whole.approx_kl) == pytest.approx(
        (ours.entropy, ours.ratio_mean, ours.approx_kl)
    ), "measured alike"
    assert whole.loss != pytest.approx(ours.loss, rel=1e-3)
    assert 0 < whole.clip_fraction < 1


async def test_tool_and_client_through_a_real_episode() -> None:
    """The policy asks the tool, then the expert in this process, then answers with what it heard."""
    catalog = Catalog(
        [
            ExpertTool(name="adder", description="adds", price=PRICE, latency_ms=1, roles=frozenset({"Call"})),
            ExpertTool(name="clerk", description="repeats", price=PRICE, latency_ms=5),
        ]
    )
    sampler = ViewSampler(catalog, policy_price=Price(), aliases=False)
    task = Task(
        id="t",
        kind="Chat",
        instruction="20 + 22?",
        source="s",
        grader=GraderSpec(type="acme-orchestra/Within", data={"answer": 42}),
    )
    order = order_of(task, view=sampler.sample(random.Random(0)), limits=LIMITS)
    said = [ask(("adder", "20 + 22"), ("adder", "why?")), ask(("clerk", "is it 42?")), r"\boxed{42}"]
    played = importlib.import_module("acme_orchestra.play").play
    trace = await played(order, engine=FakeEngine(RENDERER, said), renderer=RENDERER)
    assert trace.ending is Ending.ANSWERED
    assert trace.components.outcome == 1
    first, second = trace.turns[0].calls, trace.turns[1].calls
    assert [(call.name, call.status, call.reason) for call in (*first, *second)] == [
        ("adder", "ok", None),
        ("adder", "refused", Reason.DECLINED),
        ("clerk", "ok", None),
    ]
    assert (first[0].observation, second[0].observation) == ("42", "I was asked: is it 42?")
    assert "want two whole numbers" in first[1].observation
    assert trace.components.calls == {"adder": 2, "clerk": 1}
    assert sum(call.meter.nominal_usd for call in (*first, *second)) == Decimal("0.03")
    assert trace.components.actual_usd == 0


def check(folder: Path, *, status: int, **changes: Any) -> str:
    """What `orchestra train --check` says of the page's training."""
    if not (folder / "data").exists():
        model_folder(folder / "data" / "model")
    skills = folder / "skills.yaml"
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    skills.write_text(text.split("```yaml\n")[2].split("```")[0], encoding="utf-8")
    arguments = ["-f", training(folder, **changes), "--simulator", skills, "--volume", f"data={folder / 'data'}"]
    return orchestra("train", *arguments, "--check", "--device", "cpu", status=status).output


def test_the_pages_training_could_run_and_one_without_its_plug_ins_could_not(tmp_path: Path) -> None:
    said = check(tmp_path, status=0)
    assert said.splitlines()[-1] == "mine: could run here"
    assert "to train on" in said
    sources = [{"name": "sums", "type": "Plugin", "plugin": {"name": "acme-orchestra/Sum"}}]
    said = check(
        tmp_path,
        status=2,
        tasks={"sources": sources},
        reward={"combiner": "acme/Dearest"},
        algorithm={"objective": "acme/None"},
    )
    assert "spec.algorithm.objective: objective acme/None is not installed here" in said
    assert "spec.reward.combiner: combiner acme/Dearest is not installed here" in said
    assert "source sums: task source acme-orchestra/Sum is not installed here (installed: acme-orchestra/Sums)" in said


async def test_the_driver_refuses_what_is_not_in_its_image(tmp_path: Path) -> None:
    """As on a cluster, whose operator admitted it: nothing is started, and the last words say what to do."""
    from toolorchestra.controller.driver import drive

    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    config = DriverConfig(
        run=run.root,
        resources=(training(tmp_path, reward={"combiner": "acme/Dearest"}),),
        model_dir=tmp_path,
        uid="u1",
        nats_url="nats://127.0.0.1:1",
        ray_address="127.0.0.1:1",
    )
    assert await drive(config) == EXIT_CODES["Failed"]
    said = last_words(run, EXIT_CODES["Failed"], tmp_path / "no.log")
    assert said.startswith(
        "spec.reward.combiner: combiner acme/Dearest is not installed here (installed: acme-orchestra"
    )
    assert run.read_status()["state"] == "Failed"


def test_a_name_that_no_plug_in_can_have_is_refused_by_the_models(tmp_path: Path) -> None:
    said = check(tmp_path, status=2, reward={"combiner": "Acme/Dearest"}, algorithm={"objective": "Cliped"})
    assert (
        'want one of GDPO, MinMaxDot, WeightedSum, or package/Name of an installed plug-in, got "Acme/Dearest"' in said
    )
    assert "did you mean Clipped?" in said
