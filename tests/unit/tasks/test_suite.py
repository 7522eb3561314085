"""Suites: the split, the mix and the cursor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorchestra.api.task_sources import Tasks
from toolorchestra.tasks.build import build_suite
from toolorchestra.tasks.source import SourceError, TaskFileError
from toolorchestra.tasks.suite import Suite, WeightedSource
from toolorchestra.tasks.task import GraderSpec, Task


class ListSource:
    """Tasks from a list."""

    def __init__(self, name: str, tasks: Sequence[Task]) -> None:
        self.name, self._tasks = name, tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def task(self, index: int) -> Task:
        return self._tasks[index]

    def place(self, index: int) -> str:
        return f"{self.name}:{index + 1}"


def tasks(name: str, n: int, *, topics: int = 1, **fields: str) -> ListSource:
    grader = GraderSpec(type="ExactMatch", data={"answer": "x"})
    return ListSource(
        name,
        [
            Task(
                id=f"{name}/{i}",
                instruction=f"{name} question {i}",
                grader=grader,
                source=name,
                topic=f"{name}-{i % topics}",
                **fields,  # type: ignore[arg-type]
            )
            for i in range(n)
        ],
    )


def suite(*sources: ListSource, weights: Sequence[str] = (), fraction: str = "0.2", seed: int = 0) -> Suite:
    weighted = [
        WeightedSource(source, weight=Decimal(weights[i] if weights else 1)) for i, source in enumerate(sources)
    ]
    return Suite(sources=weighted, held_out_fraction=Decimal(fraction), seed=seed)


def train_ids(one: Suite, n: int) -> list[str]:
    return [one.train_task(cursor).id for cursor in range(n)]


def test_splits_are_disjoint_complete_and_about_the_right_size() -> None:
    one = suite(tasks("a", 1000))
    held_out = {t.id for t in one.held_out(1000)}
    train = set(train_ids(one, one.train_size))
    assert not held_out & train
    assert len(held_out) + len(train) == 1000
    assert 160 < len(held_out) < 240
    assert {t.split for t in one.held_out(10)} == {"heldOut"}
    assert one.train_task(0).split == "train"


def test_the_split_depends_on_the_task_alone() -> None:
    small, both = suite(tasks("a", 100)), suite(tasks("b", 50), tasks("a", 300), seed=9)
    reversed_source = ListSource("a", [tasks("a", 100).task(i) for i in reversed(range(100))])
    held = {t.id for t in small.held_out(100)}
    assert held == {t.id for t in suite(reversed_source).held_out(100)}
    assert held == {t.id for t in both.held_out(400) if t.source == "a" and int(t.id.split("/")[1]) < 100}


def test_the_same_problem_is_never_in_both_splits() -> None:
    source = tasks("a", 600)
    copies = ListSource("b", [t.model_copy(update={"id": f"copy/{t.id}"}) for t in map(source.task, range(600))])
    one = suite(source, copies)
    held = [t.instruction for t in one.held_out(10_000)]
    train = {one.train_task(cursor).instruction for cursor in range(one.train_size * 2)}
    assert not set(held) & train
    assert len(held) == len(set(held)) == one.held_out_size, "a problem counts once"


def test_a_task_may_name_its_split() -> None:
    mixed = ListSource(
        "m",
        [
            *map(tasks("a", 50, split="train").task, range(50)),
            *map(tasks("b", 50, split="heldOut").task, range(50)),
        ],
    )
    one = suite(mixed)
    assert {t.id.split("/")[0] for t in one.held_out(100)} == {"b"}
    assert set(train_ids(one, 50)) == {f"a/{i}" for i in range(50)}


def test_each_epoch_is_a_new_shuffle_of_everything() -> None:
    one = suite(tasks("a", 40), fraction="0")
    first, second = train_ids(one, 80)[:40], train_ids(one, 80)[40:]
    assert sorted(first) == sorted(second)
    assert first != second
    assert train_ids(suite(tasks("a", 40), fraction="0", seed=1), 40) != first


@given(st.lists(st.integers(0, 5000), max_size=30))
@settings(max_examples=30)
def test_a_cursor_is_all_it_takes(cursors: list[int]) -> None:
    """Any order of asking, any instance: one cursor, one task."""
    one, other = (
        suite(tasks("a", 30), tasks("b", 7), weights=["3", "1"]),
        suite(tasks("a", 30), tasks("b", 7), weights=["3", "1"]),
    )
    assert [one.train_task(c).id for c in cursors] == [other.train_task(c).id for c in reversed(cursors)][::-1]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4))
@settings(max_examples=30)
def test_sources_are_mixed_by_weight(weights: list[int]) -> None:
    sources = [tasks(f"s{i}", 20) for i in range(len(weights))]
    one = suite(*sources, weights=[str(w) for w in weights], fraction="0")
    n = 10 * sum(weights)
    drawn = Counter(one.train_task(cursor).source for cursor in range(n))
    for i, weight in enumerate(weights):
        assert abs(drawn[f"s{i}"] - 10 * weight) <= max(2, 0.03 * n)


def test_every_pass_over_a_source_is_complete_whatever_the_mix() -> None:
    one = suite(tasks("a", 30), tasks("b", 12), weights=["2", "1"], fraction="0")
    of_b = [one.train_task(c).id for c in range(36 * 2) if one.train_task(c).source == "b"]
    assert sorted(of_b[:12]) == sorted(of_b[12:24]) == sorted(f"b/{i}" for i in range(12))


def test_held_out_takes_topics_in_turn() -> None:
    one = suite(tasks("a", 300, topics=3), tasks("b", 60))
    counts = Counter(t.topic for t in one.held_out(24))
    assert counts == {"a-0": 6, "a-1": 6, "a-2": 6, "b-0": 6}
    assert [t.id for t in one.held_out(10)] == [t.id for t in one.held_out(24)][:10]
    assert len(one.held_out(10_000)) == one.held_out_size < 360


def test_an_evaluation_holds_out_everything() -> None:
    one = suite(tasks("a", 20, split="train"), fraction="1")
    assert one.held_out_size == 20
    with pytest.raises(IndexError, match="held out"):
        one.train_task(0)


def test_mistakes_are_said() -> None:
    with pytest.raises(SourceError) as caught:
        suite(tasks("b", 2), tasks("a", 3), tasks("a", 3))
    assert str(caught.value).splitlines() == [
        f"a:{line}: the id 'a/{line - 1}' is already that of a:{line}; ids must be unique" for line in (1, 2, 3)
    ]
    with pytest.raises(SourceError, match="no training task is left in source b"):
        suite(tasks("a", 3), tasks("b", 3, split="heldOut"))
    with pytest.raises(SourceError, match="at least one source"):
        suite()
    with pytest.raises(SourceError, match="weight above 0"):
        suite(tasks("a", 3), weights=["0"])


def spec(*paths: str) -> Tasks:
    sources = [
        {"name": f"s{i}", "type": "JSONL", "weight": 1, "jsonl": {"uri": f"file:///{path}"}}
        for i, path in enumerate(paths)
    ]
    return Tasks.model_validate({"sources": sources})


def test_suites_are_built_from_the_resource(tmp_path: Path) -> None:
    def open_uri(uri: str) -> Path:
        return tmp_path / uri.removeprefix("file:///")

    lines = [tasks("a", 30).task(i).model_copy().model_dump_json(exclude={"split"}) for i in range(30)]
    (tmp_path / "good.jsonl").write_text("\n".join(lines))
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n{}')
    (tmp_path / "worse.jsonl").write_text("?")
    built = build_suite(spec("good.jsonl"), open_uri=open_uri, seed=0)
    assert built.train_size + built.held_out_size == 30
    assert build_suite(spec("good.jsonl"), open_uri=open_uri, seed=0, evaluation=True).held_out_size == 30
    with pytest.raises(TaskFileError) as caught:
        build_suite(spec("bad.jsonl", "good.jsonl", "worse.jsonl"), open_uri=open_uri, seed=0)
    places = {(Path(p.file).name, p.line) for p in caught.value.problems}
    assert places == {("bad.jsonl", 1), ("bad.jsonl", 2), ("worse.jsonl", 1)}
    with pytest.raises(SourceError, match="cannot read") as both:
        build_suite(spec("bad.jsonl", "gone.jsonl"), open_uri=open_uri, seed=0)
    assert "bad.jsonl:1" in str(both.value)
    gym = {"sources": [{"name": "g", "type": "ReasoningGym", "reasoningGym": {"datasets": ["chain_sum"], "size": 50}}]}
    assert build_suite(Tasks.model_validate(gym), open_uri=open_uri, seed=0).train_task(0).topic == "chain_sum"
