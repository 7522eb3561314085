"""Our JSON Lines format: read in order, every mistake of every line said at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolorchestra.tasks.jsonl import JSONLSource
from toolorchestra.tasks.source import SourceError, TaskFileError


def line(id: str, **fields: Any) -> str:
    return json.dumps(
        {"id": id, "instruction": f"do {id}", "grader": {"type": "ExactMatch", "data": {"answer": "x"}}} | fields
    )


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(part if isinstance(part, bytes) else part.encode() for part in lines))
    return path


def test_tasks_are_read_by_index(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        line("a"),
        "",
        line("b", topic="ü", kind="Chat", tools=["oak"]),
        "  ",
        line("c", context="k"),
    )
    source = JSONLSource(name="mine", path=path)
    assert len(source) == 3
    tasks = [source.task(i) for i in (2, 0, 1)]
    assert [t.id for t in tasks] == ["c", "a", "b"]
    assert {t.source for t in tasks} == {"mine"}
    assert (tasks[2].topic, tasks[2].kind, tasks[2].tools) == ("ü", "Chat", ("oak",))
    with pytest.raises(IndexError):
        source.task(3)


def test_what_a_task_serialises_to_is_read_back(tmp_path: Path) -> None:
    first = JSONLSource(name="mine", path=write(tmp_path / "a.jsonl", line("a", topic="t"))).task(0)
    again = JSONLSource(name="mine", path=write(tmp_path / "b.jsonl", first.model_dump_json())).task(0)
    assert again == first


BROKEN = [
    (b"{not json", "", "not JSON"),
    (b"\xff\xfe", "", "not UTF-8"),
    (b"[1]", "", "want a JSON object, got a list"),
    (b'{"id": "x"}', "instruction", "is missing"),
    (line("x", grader={"type": "ExactMatsch", "data": {}}).encode(), "grader.type", "use one of ExactMatch"),
    (line("x", grader={"type": "ExactMatch", "data": {}}).encode(), "grader.data.answer", "is missing"),
    (line("x", grader={"type": "ExactMatch", "data": {"answer": []}}).encode(), "grader.data.answer", "is empty"),
    (line("x", instructions="y").encode(), "instructions", "no such field"),
    (line("x", contxt="y").encode(), "contxt", "did you mean 'context'"),
    (line("x", kind="FunctionCalling").encode(), "kind", "'QA' or 'Chat', not \"FunctionCalling\""),
    (line("x", topic=3).encode(), "topic", "valid string, not 3"),
    (line("x", instruction=" ").encode(), "instruction", "is empty"),
    (line("ok").encode(), "id", "already the id of line 1"),
]


@pytest.mark.parametrize(("broken", "field", "message"), BROKEN)
def test_each_mistake_is_placed(tmp_path: Path, broken: bytes, field: str, message: str) -> None:
    path = write(tmp_path / "t.jsonl", line("ok"), "", broken)
    with pytest.raises(TaskFileError) as caught:
        JSONLSource(name="mine", path=path)
    problem = next(p for p in caught.value.problems if p.field == field)
    assert (problem.file, problem.line) == (str(path), 3)
    assert message in problem.message
    assert f"{path}:3" in str(caught.value)


@pytest.mark.parametrize("content", [json.dumps([{"id": "a"}], indent=1).encode(), b"PK\x03\x04\n\xff\n\xfe\n"])
def test_a_file_of_another_kind_is_one_message(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "tasks.json").write_bytes(content)
    with pytest.raises(SourceError, match="want JSON Lines, one object per line") as caught:
        JSONLSource(name="mine", path=path)
    assert f"{path}:1: not JSON" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_mistakes_come_at_once_and_can_be_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", line("ok"), *(broken for broken, _, _ in BROKEN), line("last"))
    with pytest.raises(TaskFileError) as caught:
        JSONLSource(name="mine", path=path)
    assert {p.line for p in caught.value.problems} == set(range(2, 2 + len(BROKEN)))
    source = JSONLSource(name="mine", path=path, skip_invalid=True)
    assert [source.task(i).id for i in range(len(source))] == ["ok", "last"]
    assert source.skipped == caught.value.problems
    assert source.skipped_lines == len(BROKEN)


def test_files_without_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        JSONLSource(name="mine", path=tmp_path / "none.jsonl")
    with pytest.raises(SourceError, match="no valid task"):
        JSONLSource(name="mine", path=write(tmp_path / "t.jsonl", ""))
    with pytest.raises(SourceError, match="no valid task"):
        JSONLSource(name="mine", path=write(tmp_path / "t.jsonl", "{"), skip_invalid=True)
