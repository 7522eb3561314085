"""The loader: everything that is wrong, at once, each with its place and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolorchestra.api import Bundle, ResourceError, load

POOL = """\
apiVersion: toolorchestra.dev/v1alpha1
kind: ExpertPool
metadata: {name: generalist, labels: {team: demo}}
spec:
  description: Good at everything.
  price: {inputUSDPerMillionTokens: "1", outputUSDPerMillionTokens: "10"}
  expectedLatencyMilliseconds: 900
  type: Endpoint
  endpoint: {url: http://simulator/v1, model: generalist}
"""
TRAINING = """\
apiVersion: toolorchestra.dev/v1alpha1
kind: OrchestratorTraining
metadata: {name: demo}
spec:
  model: {uri: hf://Qwen/Qwen3-8B, price: {inputUSDPerMillionTokens: "0.2", outputUSDPerMillionTokens: "0.2"}}
  tasks:
    sources:
    - {name: puzzles, type: ReasoningGym, reasoningGym: {datasets: [chain_sum]}}
  tools:
    experts: {type: Selector, selector: {matchLabels: {team: demo}}}
"""


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def mistakes(*paths: Path, resolve: bool = True) -> dict[str, str]:
    """path → message; the whole text where there is no path."""
    with pytest.raises(ResourceError) as caught:
        load(list(paths), resolve=resolve)
    found: dict[str, str] = {}
    for mistake in caught.value.mistakes:
        assert mistake.path not in found, f"two messages for {mistake.path}"
        found[mistake.path] = mistake.message
    return found


def test_several_documents_of_several_files_in_any_order(tmp_path: Path) -> None:
    one = write(tmp_path, TRAINING)
    two = write(tmp_path, "---\n" + POOL + "---\n---\n" + POOL.replace("name: generalist", "name: other"), "y.yaml")
    bundle = load([one, two])
    assert isinstance(bundle, Bundle)
    assert bundle.training().metadata.name == "demo"
    assert [pool.metadata.name for pool in bundle.experts(bundle.training().spec.tools)] == ["generalist", "other"]
    assert load(tmp_path) == bundle


def test_three_mistakes_are_three_messages_with_file_line_and_path(tmp_path: Path) -> None:
    broken = TRAINING + "  algorithm: {groupSzie: 8}\n  reward:\n    combiner: GDP\n  rollout: {maxTurns: '50'}\n"
    path = write(tmp_path, POOL + "---\n" + broken)
    with pytest.raises(ResourceError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [
        "3 mistakes:",
        f"  {path}:21 (OrchestratorTraining/demo): spec.algorithm.groupSzie: unknown field; did you mean groupSize?",
        f"  {path}:23 (OrchestratorTraining/demo): spec.reward.combiner: want one of GDPO, MinMaxDot, WeightedSum,"
        ' or package/Name of an installed plug-in, got "GDP"; did you mean GDPO?',
        f'  {path}:24 (OrchestratorTraining/demo): spec.rollout.maxTurns: want an integer (without quotes), got "50"',
    ]


def test_mistakes_of_all_files_come_together(tmp_path: Path) -> None:
    one = write(tmp_path, POOL.replace("900", "0"))
    two = write(tmp_path, TRAINING.replace("hf://", ""), "y.yaml")
    three = write(tmp_path, "a: [", "z.yaml")
    with pytest.raises(ResourceError) as caught:
        load([one, two, three, tmp_path / "absent.yaml"])
    found = {(Path(mistake.file).name, mistake.path) for mistake in caught.value.mistakes}
    assert found == {
        ("x.yaml", "spec.expectedLatencyMilliseconds"),
        ("y.yaml", "spec.model.uri"),
        ("z.yaml", ""),
        ("absent.yaml", ""),
    }


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


def test_a_selector_that_matches_nothing_lists_the_pools(tmp_path: Path) -> None:
    text = POOL + "---\n" + TRAINING.replace("team: demo}", "team: research}")
    assert mistakes(write(tmp_path, text)) == {
        "spec.tools.experts.selector": "matches no ExpertPool with a role of an expert; "
        "the files contain generalist (team=demo)"
    }


def test_a_training_alone_says_that_pools_are_missing(tmp_path: Path) -> None:
    path = write(tmp_path, TRAINING)
    assert "give the pools' file too" in mistakes(path)["spec.tools.experts.selector"]
    assert load(path, resolve=False).training().metadata.name == "demo"


def test_a_judge_is_no_expert(tmp_path: Path) -> None:
    judge = POOL.replace("generalist", "judge").replace("spec:", "spec:\n  roles: [Judge]")
    bundle = load(write(tmp_path, POOL + "---\n" + judge + "---\n" + TRAINING))
    assert [pool.metadata.name for pool in bundle.experts(bundle.training().spec.tools)] == ["generalist"]


def test_rules_over_fields_are_told_beside_other_mistakes(tmp_path: Path) -> None:
    text = TRAINING + "  checkpoint: {keep: many}\n  algorithm: {maxStaleness: 0, onStale: Drop}\n"
    assert set(mistakes(write(tmp_path, text))) == {"spec.checkpoint.keep", "spec.algorithm.onStale"}


def test_a_rule_whose_field_is_wrong_already_is_not_told_again(tmp_path: Path) -> None:
    text = TRAINING + "  ray: {engines: {tensorParallelSize: two, resources: {limits: {nvidia.com/gpu: 2}}}}\n"
    assert list(mistakes(write(tmp_path, text))) == ["spec.ray.engines.tensorParallelSize"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file contains no document"),
        ("# only a comment\n---\n", "the file contains no document"),
        ("a: [1, 2\nb: 3\n", "not YAML"),
        ("a: b: c\n", "not YAML: .* in quotes"),
        ("a: \t- x\n", "not YAML: .*spaces, not with tabs"),
        (
            "a:\n    b: 1\n  c: 2\n",
            r":3: not YAML: this line begins in column 3, .*from line 1 on\) in column 1: correct the",
        ),
        ("a: !python/object:os.system x\n", "the tag !python"),
        ("a: *nowhere\n", "not YAML"),
        ("just text\n", "want a resource"),
        ("- a\n- b\n", "want a resource"),
    ],
)
def test_what_is_no_resource_at_all(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ResourceError, match=says):
        load(write(tmp_path, text))


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


def test_a_key_twice(tmp_path: Path) -> None:
    text = POOL + "  simulated: false\n  simulated: true\n"
    assert mistakes(write(tmp_path, text)) == {"spec.simulated": "the key is repeated (first on line 10): remove one"}


def test_a_key_that_is_no_string(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, POOL.replace("{team: demo}", "{on: demo}")))
    assert "put on in quotes" in found["metadata.labels"]


def test_a_value_that_holds_itself(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="never ends"):
        load(write(tmp_path, "a: &x\n  b: *x\n"))


def test_anchors_and_merges_work_as_with_kubectl(tmp_path: Path) -> None:
    text = POOL.replace("price: {", "price: &price {").replace("900", "900 # ms")
    merged = text + "  parameters: {}\n"
    other = POOL.replace("generalist", "other").replace(
        'price: {inputUSDPerMillionTokens: "1", outputUSDPerMillionTokens: "10"}',
        'price:\n    <<: &p {inputUSDPerMillionTokens: "1", outputUSDPerMillionTokens: "3"}\n'
        '    outputUSDPerMillionTokens: "10"',
    )
    bundle = load(write(tmp_path, merged + "---\n" + other))
    assert bundle.pools[0].spec.price == bundle.pools[1].spec.price


def test_a_key_without_a_value_is_absent_as_for_kubectl(tmp_path: Path) -> None:
    empty = write(tmp_path, TRAINING + "  export:\n  algorithm:\n  checkpoint: {keep: , everySteps: 5}\n")
    same = write(tmp_path, TRAINING + "  checkpoint: {everySteps: 5}\n", "y.yaml")
    assert load(empty, resolve=False) == load(same, resolve=False)


def test_a_date_is_a_string(tmp_path: Path) -> None:
    text = TRAINING.replace("uri: hf://Qwen/Qwen3-8B,", "uri: hf://Qwen/Qwen3-8B, revision: 2024-01-01,")
    bundle = load(write(tmp_path, text), resolve=False)
    assert bundle.training().spec.model.revision == "2024-01-01"


def test_a_name_twice_says_where_the_first_is(tmp_path: Path) -> None:
    one, two = write(tmp_path, POOL), write(tmp_path, POOL, "y.yaml")
    assert mistakes(one, two) == {"metadata.name": f"another ExpertPool has this name, at {one}:3: rename one"}


def test_the_same_file_given_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path, POOL)
    assert len(load([path, path]).pools) == 1


def test_a_path_that_is_not_there_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        load([tmp_path / "absent.yaml", tmp_path])
    assert [mistake.message for mistake in caught.value.mistakes] == ["no such file", "no *.yaml file in this folder"]


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResourceError, match="cannot be read"):
        load(path)


def test_choosing_a_training(tmp_path: Path) -> None:
    two = TRAINING + "---\n" + TRAINING.replace("name: demo", "name: other")
    bundle = load(write(tmp_path, two), resolve=False)
    assert bundle.training("other").metadata.name == "other"
    with pytest.raises(ResourceError, match=r"more than one .* \(demo, other\): say which with --name"):
        bundle.training()
    with pytest.raises(ResourceError, match="did you mean other"):
        bundle.training("othr")
    with pytest.raises(ResourceError, match="no OrchestratorTraining in the given files"):
        Bundle().training()
