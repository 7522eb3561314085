"""A wrong field of a resource: the message names its path and says what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.manifest_files import POOL, TRAINING, mistakes, write


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ('"0.2", output', "0.2, output", "spec.model.price.inputUSDPerMillionTokens", 'put it in quotes ("0.2")'),
        ('"0.2", output', '"2e-1", output', "spec.model.price.inputUSDPerMillionTokens", 'got "2e-1"'),
        ('"0.2", output', '"-1", output', "spec.model.price.inputUSDPerMillionTokens", 'got "-1"'),
        ("{name: demo}", "{name: Demo}", "metadata.name", "DNS-1035"),
        ("{name: demo}", "{name: " + "d" * 41 + "}", "metadata.name", "at most 40"),
        ("{name: demo}", "{name: demo, label: {}}", "metadata.label", "did you mean labels?"),
        ("  tasks:", '  tasks:\n    heldOutFraction: "1"', "spec.tasks.heldOutFraction", "none is left to train on"),
        ("[chain_sum]", "chain_sum", "spec.tasks.sources[0].reasoningGym.datasets", "want a list"),
        ("[chain_sum]", "[]", "spec.tasks.sources[0].reasoningGym.datasets", "want at least 1"),
        ("[chain_sum]", "[a, a]", "spec.tasks.sources[0].reasoningGym.datasets[1]", '"a" is repeated'),
        ("type: ReasoningGym", "type: JSONL", "spec.tasks.sources[0].jsonl", "type JSONL needs jsonl"),
        ("type: Selector, ", "", "spec.tools.experts.type", "one of Selector, Names"),
        ("type: Selector,", "type: selector,", "spec.tools.experts.type", "did you mean Selector?"),
        (
            "type: Selector, selector",
            "type: Names, names: [generalist], selector",
            "spec.tools.experts.selector",
            "only for type Selector",
        ),
    ],
)
def test_one_mistake_in_a_training(tmp_path: Path, old: str, new: str, path: str, says: str) -> None:
    assert old in TRAINING
    found = mistakes(write(tmp_path, POOL + "---\n" + TRAINING.replace(old, new, 1)))
    assert says in found[path], found


@pytest.mark.parametrize(
    ("line", "path", "says"),
    [
        ("algorithm: {group_size: 8}", "spec.algorithm.group_size", "did you mean groupSize?"),
        ("algorithm: {groupSize: 1}", "spec.algorithm.groupSize", "want at least 2, got 1"),
        ("algorithm: {maxStaleness: 0, onStale: Drop}", "spec.algorithm.onStale", "nothing becomes stale"),
        ("algorithm: {mask: {low: '2', high: '0.5'}}", "spec.algorithm.mask.low", "less than high"),
        ("algorithm: {steps: 1:30}", "spec.algorithm.steps", "1:30 is a number in base 60 or text"),
        ("telemetry: {spanGroup: off}", "spec.telemetry.spanGroup", "put it in quotes"),
        ("suspend: 'true'", "spec.suspend", "want true or false (without quotes)"),
        ("queueName: 5", "spec.queueName", "name of a Kubernetes object"),
        ("rollout: [1]", "spec.rollout", "want a mapping with workers"),
        ("export: {uri: }", "spec.export.uri", "is required"),
        ("warmStart: {source: traces.jsonl}", "spec.warmStart.source", "FormatTraces, or the URI"),
        ("reward: {weights: {cost: '2'}}", "spec.reward.weights", "between 0 and 1"),
        ("reward: {combiner: MinMaxDot, gate: false}", "spec.reward.gate", "only combiner GDPO"),
        ("reward: {weights: {outcome: '0', cost: '0', latency: '0.0'}}", "spec.reward.weights", "all weights are 0"),
        ("reward: {weights: {cost: '1e400'}}", "spec.reward.weights.cost", 'got "1e400"'),
        ("reward: {weights: {costs: '1'}}", "spec.reward.weights.costs", "did you mean cost?"),
        ("storage: {type: URI}", "spec.storage.uri", "type URI needs uri"),
        ("storage: {uri: s3://a/b}", "spec.storage.uri", "only for type URI"),
        ("preferences: {fraction: '1.5'}", "spec.preferences.fraction", 'from "0" to "1"'),
        ("activeDeadlineSeconds: 60", "spec.activeDeadlineSeconds", "longer than startDeadlineSeconds"),
        (
            "ray: {engines: {tensorParallelSize: 2, resources: {limits: {nvidia.com/gpu: 4}}}}",
            "spec.ray.engines.tensorParallelSize",
            "must equal the GPU limit",
        ),
        (
            "ray: {trainers: {resources: {limits: {nvidia.com/gpu: 8}}}}",
            "spec.ray.trainers.resources",
            "raise replicas instead",
        ),
        (
            "ray: {placement: Shared, trainers: {replicas: 2}}",
            "spec.ray.placement",
            "trainers.replicas equal to engines.replicas",
        ),
        (
            "ray: {placement: Shared, engines: {tensorParallelSize: 2}}",
            "spec.ray.placement",
            "engines.tensorParallelSize 1",
        ),
        (
            "ray: {placement: Shared, engines: {resources: {limits: {nvidia.com/gpu: 1}}}}",
            "spec.ray.engines",
            "set both resources in trainers.resources",
        ),
        (
            "ray: {head: {resources: {limits: {cpu: lots}}}}",
            "spec.ray.head.resources.limits.cpu",
            "a Kubernetes quantity",
        ),
        ("models: {judge: {pool: generalist}}", "spec.models.judge.pool", "add Judge"),
        ("models: {judge: {pool: generalst}}", "spec.models.judge.pool", "did you mean generalist?"),
        (
            "evaluation: {suites: [{name: a, size: 3}, {name: a, size: 4}]}",
            "spec.evaluation.suites[1].name",
            '"a" is repeated',
        ),
        (
            "evaluation: {suites: [{name: a, size: 3, priceBooks: [{name: b, prices: [{name: generalst}]}]}]}",
            "spec.evaluation.suites[0].priceBooks[0].prices[0].name",
            "did you mean generalist?",
        ),
    ],
)
def test_one_wrong_line_in_a_training(tmp_path: Path, line: str, path: str, says: str) -> None:
    found = mistakes(write(tmp_path, POOL + "---\n" + TRAINING + f"  {line}\n"))
    assert list(found) == [path], found
    assert says in found[path]


@pytest.mark.parametrize(
    ("line", "path", "says"),
    [
        ("    functions: [{name: cost, type: CodeInterpreter}]", "spec.tools.functions[0].name", "must not be named"),
        ("    functions: [{name: generalist, type: CodeInterpreter}]", "spec.tools.functions[0].name", "also the name"),
        ("    randomize: {minTools: 5}", "spec.tools.randomize.minTools", "want at most 1"),
        (
            "    randomize: {aliases: false, aliasNames: [a]}",
            "spec.tools.randomize.aliasNames",
            "need aliases: true",
        ),
        ("    randomize: {aliasNames: [a, a]}", "spec.tools.randomize.aliasNames[1]", '"a" is repeated'),
    ],
)
def test_one_wrong_line_in_the_tools(tmp_path: Path, line: str, path: str, says: str) -> None:
    found = mistakes(write(tmp_path, POOL + "---\n" + TRAINING + line + "\n"))
    assert list(found) == [path], found
    assert says in found[path]


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("name: generalist,", "name: latency,", "metadata.name", "must not be named"),
        ("type: Endpoint", "type: VLLM", "spec.endpoint", "only for type Endpoint"),
        ("description: ", "roles: []\n  description: ", "spec.roles", "want at least 1"),
        ("description: ", "roles: [Answers]\n  description: ", "spec.roles[0]", "did you mean Answer?"),
        ("http://simulator", "simulator", "spec.endpoint.url", "https://"),
        ("http://simulator/v1", '"http://[simulator/v1"', "spec.endpoint.url", "base URL"),
        ("http://simulator/v1", "http://simulator:99999/v1", "spec.endpoint.url", "base URL"),
        ("http://simulator/v1", "http:///v1", "spec.endpoint.url", "base URL"),
        ("http://simulator/v1", "http://me:sk-1@simulator/v1", "spec.endpoint.url", "without user"),
        ("http://simulator/v1", '"http://simulator/v1?key=1"', "spec.endpoint.url", "query"),
        ("http://simulator/v1", '"http://simulator/v1#x"', "spec.endpoint.url", "fragment"),
        (
            "http://simulator/v1",
            "http://simulator/v1/chat/completions",
            "spec.endpoint.url",
            "without /chat/completions",
        ),
        (
            "model: generalist}",
            "model: generalist, parameterNames: {maxTokens: model}}",
            "spec.endpoint.parameterNames",
            "uses these names for other parameters: model",
        ),
        (
            "model: generalist}",
            "model: generalist, parameterNames: {temperature: max_tokens}}",
            "spec.endpoint.parameterNames",
            "must have different names",
        ),
        (
            "description: Good at everything.",
            "description: x\n  descriptionFrom: {configMapKeyRef: {name: a, key: b}}",
            "spec.descriptionFrom",
            "not both",
        ),
        (
            "endpoint: {url: http://simulator/v1, model: generalist}",
            "vllm: {model: {uri: 'hf://a/b'}, extraArgs: ['--port=1']}",
            "spec.vllm.extraArgs",
            "must not set a flag that has its own field",
        ),
    ],
)
def test_one_mistake_in_a_pool(tmp_path: Path, old: str, new: str, path: str, says: str) -> None:
    text = POOL.replace(old, new, 1)
    if "vllm:" in new:
        text = text.replace("type: Endpoint", "type: VLLM")
    found = mistakes(write(tmp_path, text))
    assert says in found[path], found


def test_rules_over_fields_are_told_beside_other_mistakes(tmp_path: Path) -> None:
    text = TRAINING + "  checkpoint: {keep: many}\n  algorithm: {maxStaleness: 0, onStale: Drop}\n"
    assert set(mistakes(write(tmp_path, text))) == {"spec.checkpoint.keep", "spec.algorithm.onStale"}


def test_a_rule_whose_field_is_wrong_already_is_not_told_again(tmp_path: Path) -> None:
    text = TRAINING + "  ray: {engines: {tensorParallelSize: two, resources: {limits: {nvidia.com/gpu: 2}}}}\n"
    assert list(mistakes(write(tmp_path, text))) == ["spec.ray.engines.tensorParallelSize"]


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("kind: ExpertPool", "kind: ExpertPol", "kind", "did you mean ExpertPool?"),
        ("kind: ExpertPool", "kind: Deployment", "kind", "known here: ExpertPool"),
        ("kind: ExpertPool\n", "", "kind", "is required: one of ExpertPool"),
        ("v1alpha1", "v1", "apiVersion", "toolorchestra.dev/v1alpha1"),
        ("metadata: {name: generalist, labels: {team: demo}}\n", "", "metadata", "is required"),
        ("metadata: {name: generalist", "metadata: {nam: generalist", "metadata.name", "is required"),
    ],
)
def test_the_head_of_a_resource(tmp_path: Path, old: str, new: str, path: str, says: str) -> None:
    assert says in mistakes(write(tmp_path, POOL.replace(old, new)))[path]
