"""The loader: files, documents and names; everything that is wrong, at once, each with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.manifest_files import POOL, TRAINING, mistakes, write
from toolorchestra.api import Bundle, ResourceError, load


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
