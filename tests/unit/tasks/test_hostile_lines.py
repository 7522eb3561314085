"""Lines that pass for tasks and are none: each is said with file, line and field, before anything is spent."""

from __future__ import annotations

import json
import os
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolorchestra.rollout.codec import decode_order, encode_order
from toolorchestra.rollout.order import EpisodeLimits, Order
from toolorchestra.rollout.trace import Sampling
from toolorchestra.tasks.build import build_suite
from toolorchestra.tasks.grader import grade, reference_answer
from toolorchestra.tasks.jsonl import JSONLSource, LineChecks
from toolorchestra.tasks.source import SourceError, TaskFileError
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import InstanceView, Price

TOOLS = ("oak", "elm")
LINES = 10_000
PER_FILE = 10


def line(**fields: Any) -> bytes:
    task = {"id": "x", "instruction": "do x", "grader": {"type": "ExactMatch", "data": {"answer": "x"}}}
    return json.dumps(task | fields).encode()


def exact(answer: Any) -> bytes:
    return line(grader={"type": "ExactMatch", "data": {"answer": answer}})


def numeric(**data: Any) -> bytes:
    return line(grader={"type": "Numeric", "data": data})


def gym(dataset: str, **entry: Any) -> bytes:
    return line(grader={"type": "ReasoningGym", "data": {"dataset": dataset, "entry": entry}})


def problems(folder: Path, *lines: bytes, tools: tuple[str, ...] | None = TOOLS) -> list[str]:
    """What is said of a file with these lines, without its folder."""
    path = folder / "t.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(TaskFileError) as caught:
        JSONLSource(name="mine", path=path, checks=LineChecks(tools=tools))
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (line(tools=["oka"]), "tools.0: no tool 'oka'; did you mean 'oak'?"),
        (line(tools=["oak", "birch"]), "tools.1: no tool 'birch'; there are oak, elm"),
        (line(tools=[]), "tools: is empty, so no tool could answer; name some, or leave tools out for all"),
        (line(instruction="\ud800"), "instruction: contains half of a surrogate pair (\\ud800)"),
        (line(tools=["oak", "\udfff"]), "tools.1: contains half of a surrogate pair"),
        (exact(["x", "\ud83d"]), "grader.data.answer.1: contains half of a surrogate pair"),
        (line(**{"\ud800": 1}), "a key: contains half of a surrogate pair"),
        (line(instruction="a\0b"), "instruction: contains a NUL"),
        (b"[" * 5000, "nested deeper than 32 levels"),
        (line(context="c", grader={"type": "ExactMatch", "data": json.loads('{"answer":' + "[" * 40 + "]" * 40 + "}")}),
         "nested deeper than 32 levels"),
        (b'{"id": ' + b"9" * 5000 + b"}", "the number 999999999999999999999… does not fit into 64 bits"),
        (numeric(answer=2**63), "the number 9223372036854775808 does not fit into 64 bits"),
        (b'{"id": 1e999}', "the number 1e999 is too large"),
        (b'{"id": NaN}', "NaN is not JSON"),
        (b'{"id": "x", "id": "y"}', 'the key "id" is repeated'),
        (exact(""), "grader.data.answer"),
        (exact("   "), "grader.data.answer: Value error, a right answer is empty after normalisation"),
        (exact(["x", " . "]), "a right answer is empty after normalisation"),
        (exact([]), "grader.data.answer"),
        (exact("word " * 600), "a right answer has more than 500 words"),
        (numeric(answer="1e999"), "grader.data.answer: Value error, want a number of at most 1000 digits"),
        (numeric(answer="1e999999999"), "want a number of at most 1000 digits"),
        (numeric(answer="9" * 5000), "want a number of at most 1000 digits"),
        (numeric(answer="nan"), "grader.data.answer"),
        (numeric(answer=1, relativeTolerance="1e999"), "grader.data.relativeTolerance: Value error, want a number"),
        (numeric(answer=1, absoluteTolerance="inf"), "grader.data.absoluteTolerance: Input should be a finite number"),
        (gym("chain_smu", answer="4"), "grader.data.dataset: reasoning-gym has no dataset 'chain_smu'; did you mean"),
        (gym("chain_sum", answer=None), "grader.data.entry: Value error, needs an `answer` that is text"),
        (gym("countdown", answer="4"), "grader.data.entry.answer: "),
        (b"\xff\xfe", "not UTF-8 text: byte 0xff"),
        (b"\x00", "not JSON"),
        (b'{"id": "a\x00b"}', "not JSON: Invalid control character"),
        (line(**{"a\nb\x1b[31m": 1}), "a\\u000ab\\u001b[31m: no such field"),
        (line(id="y") + line(id="z"), "not JSON: Extra data"),
        (b'"' + b"x" * (5 << 20) + b'"', "longer than 4 MiB"),
    ],
)  # fmt: skip
def test_each_is_said_with_its_line_and_field(tmp_path: Path, bad: bytes, says: str) -> None:
    said = problems(tmp_path, line(id="first"), bad, line(id="last"))
    assert len(said) == 1, said
    assert said[0].startswith(f"t.jsonl:2: {says}") or (said[0].startswith("t.jsonl:2: ") and says in said[0])
    assert "\n" not in said[0]
    assert len(said[0]) < 500


def test_what_editors_of_other_systems_write_is_read(tmp_path: Path) -> None:
    """A byte order mark, Windows' line ends, no line end at the end."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line(id="a") + b"\r\n\r\n" + line(id="b", tools=["elm"]))
    source = JSONLSource(name="mine", path=path, checks=LineChecks(tools=TOOLS))
    assert [source.task(i).id for i in range(2)] == ["a", "b"]
    assert [source.place(i) for i in range(2)] == [f"{path}:1", f"{path}:3"]


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    for name, said in (
        ("pipe", "is a pipe, not a file"),
        ("folder", "is a folder, not a file"),
        ("empty", "contains no valid task"),
        ("a\0b", "embedded null byte"),
    ):
        with pytest.raises(SourceError, match=said):
            JSONLSource(name="mine", path=tmp_path / name)
    with pytest.raises(SourceError, match="is a device or socket"):
        JSONLSource(name="mine", path=Path("/dev/zero"))


def test_a_line_of_100_megabytes_costs_no_memory_and_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with path.open("wb") as file:
        file.write(line(id="first") + b"\n")
        file.truncate(file.tell() + (100 << 20))
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + line(id="last"))
    source = JSONLSource(name="mine", path=path, skip_invalid=True)
    assert [source.task(i).id for i in range(2)] == ["first", "last"]
    (problem,) = source.skipped
    assert str(problem) == f"{path}:2: longer than 4 MiB: write one task per line, and a shorter one"


def test_many_mistakes_are_shown_in_part_and_counted(tmp_path: Path) -> None:
    said = problems(tmp_path, *[b"{"] * 5000)
    assert len(said) == 1001
    assert said[-1].startswith("t.jsonl:1000: 1000 mistakes so far")
    with pytest.raises(TaskFileError) as caught:
        JSONLSource(name="mine", path=tmp_path / "t.jsonl")
    shown = str(caught.value).splitlines()
    assert len(shown) == 21
    assert shown[-1] == "… and 981 more"


# --- the campaign --------------------------------------------------------------------------------------------------

words = st.text(string.ascii_letters + " äß–", min_size=1, max_size=12)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
exact_data = st.fixed_dictionaries(
    {"answer": words | st.text(max_size=5) | st.lists(words | st.text(max_size=3), max_size=3)}
)
number = st.integers(-(10**6), 10**6) | st.decimals(allow_nan=True).map(str) | st.floats() | st.just("1e999999")
numeric_data = st.fixed_dictionaries(
    {"answer": number}, optional={"absoluteTolerance": number, "relativeTolerance": number}
)
grader = (
    st.fixed_dictionaries({"type": st.just("ExactMatch"), "data": exact_data})
    | st.fixed_dictionaries({"type": st.just("Numeric"), "data": numeric_data})
    | st.fixed_dictionaries({"type": st.sampled_from(["Exact", "Numeric", ""]), "data": json_value})
)
fields = st.fixed_dictionaries(
    {"id": words | st.text(max_size=3), "instruction": words, "grader": grader},
    optional={
        "kind": st.sampled_from(["QA", "Chat", "qa"]),
        "context": words | st.none(),
        "tools": st.lists(st.sampled_from([*TOOLS, "oka"]), max_size=2) | st.none() | json_value,
        "topic": words,
        "split": st.sampled_from(["train", "heldOut", "test"]),
        "source": words,
        "extra": json_value,
    },
)
good = st.fixed_dictionaries(
    {
        "id": st.uuids().map(str),
        "instruction": words,
        "grader": st.fixed_dictionaries(
            {"type": st.just("Numeric"), "data": st.fixed_dictionaries({"answer": st.integers(-(10**6), 10**6)})}
        ),
    },
    optional={"tools": st.lists(st.sampled_from(TOOLS), min_size=1, max_size=2), "topic": words},
)
pieces = st.sampled_from(
    [
        b"\x00",
        b"\xff",
        b'"\\ud800"',
        b"[" * 40,
        b"1e999",
        b"9" * 30,
        b"NaN",
        b"}",
        b"{",
        b'"',
        b"\\",
        b"\r",
        b",",
        b"null",
    ]
)


@st.composite
def hostile_lines(draw: st.DrawFn) -> bytes:
    """A task as it should be or nearly so, one with a piece put in or cut out, any JSON, or any bytes."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=30))
    if kind == 1:
        return json.dumps(draw(json_value)).encode()
    text = json.dumps(draw(fields if kind < 5 else good)).encode()
    if kind < 7:
        return text
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(pieces | st.just(b"")) + text[start + draw(st.integers(0, 3)) :]


def travels(task: Task) -> bool:
    """Whether an order for the task comes out of the bus as it went in."""
    limits = EpisodeLimits(max_turns=1, max_prompt_tokens=1, max_response_tokens=1, timeout_seconds=1.0)
    view = InstanceView(price_book="own", policy_price=Price(), experts=())
    order = Order(issue="u.0.0.0.0", task=task, view=view, limits=limits, sampling=Sampling(seed=0))
    return decode_order(encode_order(order)) == order


@pytest.mark.parametrize("wanted", [LINES // 10, pytest.param(LINES, marks=pytest.mark.long)])
def test_no_line_escapes(tmp_path: Path, wanted: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line is a task whose own answer is right, or a message with file and line; nothing else is raised."""
    path, seen = tmp_path / "t.jsonl", Counter[str]()

    @settings(
        max_examples=wanted // PER_FILE * 3 // 2, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        lines=st.lists(
            hostile_lines().map(lambda text: text.replace(b"\n", b" ")), min_size=PER_FILE, max_size=PER_FILE
        )
    )
    def campaign(lines: list[bytes]) -> None:
        lines = [*lines, line(id="the last")]  # a file without any task would be refused as a whole
        path.write_bytes(b"\n".join(lines))
        source = JSONLSource(name="mine", path=path, checks=LineChecks(tools=TOOLS), skip_invalid=True)
        refused = {problem.line for problem in source.skipped}
        places = {int(source.place(index).rpartition(":")[2]) for index in range(len(source))}
        blank = {number for number, text in enumerate(lines, start=1) if not text.strip()}
        assert refused | places | blank == set(range(1, len(lines) + 1))
        assert len(refused) + len(places) + len(blank) == len(lines)
        for problem in source.skipped:
            said = str(problem)
            assert said.startswith(f"{path}:{problem.line}: ")
            assert said.isprintable()
            said.encode()
        for task in map(source.task, range(len(source))):
            assert grade(task, reference_answer(task)).outcome == 1
            assert travels(task)
        seen.update(refused=len(refused), tasks=len(places) - 1, blank=len(blank))

    campaign()
    with capsys.disabled():
        print(f"\n{seen.total()} hostile task lines: {dict(seen)}")
    assert seen["refused"] + seen["tasks"] >= wanted
    assert seen["tasks"] > wanted / 20


def test_ids_of_two_files_and_a_fraction_of_one_are_said(tmp_path: Path) -> None:
    from toolorchestra.api.task_sources import Tasks

    (tmp_path / "a.jsonl").write_bytes(line(id="a") + b"\n" + line(id="b"))
    (tmp_path / "b.jsonl").write_bytes(line(id="c") + b"\n" + line(id="a"))
    sources = [
        {"name": name, "type": "JSONL", "jsonl": {"uri": f"file://{tmp_path}/{name}.jsonl"}} for name in ("a", "b")
    ]

    def built(**fields: Any) -> None:
        tasks = Tasks.model_validate({"sources": sources, **fields})
        build_suite(tasks, open_uri=lambda uri: Path(uri.removeprefix("file://")), seed=0, tools=TOOLS)

    with pytest.raises(SourceError) as caught:
        built()
    assert str(caught.value) == (
        f"{tmp_path}/b.jsonl:2: the id 'a' is already that of {tmp_path}/a.jsonl:1; ids must be unique"
    )
    (tmp_path / "b.jsonl").write_bytes(line(tools=["oka"]))
    with pytest.raises(SourceError) as caught:
        built(heldOutFraction="1")
    first, second = str(caught.value).splitlines()
    assert first == f"{tmp_path}/b.jsonl:1: tools.0: no tool 'oka'; did you mean 'oak'?"
    assert second.startswith("heldOutFraction: 1 holds out every task")
