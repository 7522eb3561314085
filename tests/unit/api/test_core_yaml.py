"""YAML that readers differ about is refused by name; what we write is read back as it was; no file is a bomb."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolorchestra.api import ResourceError, load
from toolorchestra.api.core_yaml import CoreLoader, dump_all, json_in_yaml
from toolorchestra.api.documents import Document, read_documents

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").rglob("*.yaml"))
SHORT = sorted(EXAMPLES, key=lambda path: path.stat().st_size)[:3]
CAMPAIGN = 1000


def read(folder: Path, text: str | bytes) -> tuple[Any, list[str]]:
    """The first document, and what is wrong."""
    path = folder / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    documents, mistakes = read_documents(path)
    return (documents[0].data if documents else None), [str(m).replace(f"{path}", "x") for m in mistakes]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("+7", 7),
        ("0", 0),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("1e-05", 1e-05),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("y", "y"),
        ("=", "="),
        ("'on'", "on"),
        ('"1:30"', "1:30"),
        ("a1:30", "a1:30"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("1-2", "1-2"),
        ("nulls", "nulls"),
        ("3.11.2", "3.11.2"),
        ("-", [None]),
        ("|\n  0777", "0777"),
        ("!!str 12", "12"),
    ],
)
def test_scalars_are_those_of_the_core_schema(written: str, value: object, tmp_path: Path) -> None:
    assert read(tmp_path, f"a: {written}" if written != "-" else "a:\n-") == ({"a": value}, [])


@pytest.mark.parametrize(
    "written",
    [
        "1:30",
        "-1:30:59",
        "1:30.5",
        "on",
        "Off",
        "yes",
        "NO",
        "0777",
        "00",
        "08",
        "0o17",
        "0b11",
        "1_000",
        "1_0.5",
        "0x_1",
    ],
)
def test_what_readers_differ_about_is_refused(written: str, tmp_path: Path) -> None:
    _, said = read(tmp_path, f"b: 1\na: {written}\n")
    (message,) = said
    assert message.startswith(f"x:2: a: {written} is ")
    assert message.endswith("depending on the YAML reader: put it in quotes, or write it plainly")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: " + "9" * 5000, 1, "does not fit into 64 bits"),
        ("a: 9223372036854775808", 1, "does not fit into 64 bits"),
        ("a: 1e400", 1, "JSON has no such number"),
        ("a: .nan", 1, "JSON has no such number"),
        ('\n\na: "\\ud800"', 3, "half of a surrogate pair"),
        ('a: "\\0"', 1, "a NUL is not text"),
        ("a: !!set {b, c}", 1, "the tag"),
        ("a: !!binary YQ==", 1, "the tag !!binary is not supported"),
        ("a: !!bool maybe", 1, "the tag !!bool"),
        ("a: 1\nb: 2\na: 3", 3, "the key is repeated (first on line 1)"),
        ("a: {b: 1,\n  b: 2}", 2, "the key is repeated (first on line 1)"),
        ("{a: 1}: 2", 1, "a key must be a string"),
        ("? [a]\n: 2", 1, "a key must be a string"),
        ("1: 2", 1, "put 1 in quotes"),
        ("a: 1\n<<: 5", 2, "<< needs a mapping"),
        ("a: &a\n  <<: *a", 1, "never ends"),
        ("x: 1\ny: " + "[" * 5000, 2, "nested deeper than 64 levels"),
        ("a:\x00b", 1, "the character U+0000"),
        (b"a: 1\nb: \xff", 2, "is not UTF-8 text: byte 0xff"),
        ("a: 1\n".encode("utf-16"), 1, "is not UTF-8 text"),
    ],
)
def test_what_json_cannot_say_is_refused_with_its_line(text: str | bytes, line: int, says: str, tmp_path: Path) -> None:
    _, said = read(tmp_path, text)
    assert any(f"x:{line}" in one or f"line {line}" in one for one in said if says in one), said


def chain(first: str, length: int, form: str) -> str:
    """Values, each made of aliases of the one before."""
    lines = [f"a0: &a0 {first}\n"]
    lines += [f"a{i}: &a{i} {form.format(f'*a{i - 1}')}\n" for i in range(1, length)]
    return "".join(lines)


@pytest.mark.parametrize(
    "bomb",
    [
        chain("[x]", 12, "[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]"),
        chain("{k: v}", 12, "{{<<: [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]}}"),
        chain("[x]", 5000, "[{0}]"),
    ],
    ids=["lists", "merges", "depth"],
)
def test_aliases_of_aliases_are_bounded(bomb: str, tmp_path: Path) -> None:
    began = time.process_time()
    _, said = read(tmp_path, bomb)
    assert time.process_time() - began < 5
    assert "aliases" in said[-1]
    assert said[-1].startswith("x:")


def test_only_files_of_a_fair_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "big.yaml").write_text("a: " + "x" * (3 << 20))
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "folder.yaml" / "in.yaml").mkdir()
    names = ["pipe.yaml", "big.yaml", "folder.yaml"]
    with pytest.raises(ResourceError) as caught:
        load([tmp_path / name for name in names])
    said = [mistake.message for mistake in caught.value.mistakes]
    assert said == [
        "cannot be read: is a pipe, not a file: give a file on disk",
        "cannot be read: is larger than 2 MiB",
        "cannot be read: is a folder, not a file: give a file on disk",
    ]


def test_a_byte_order_mark_and_windows_lines_are_let_be(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: c\r\n") == ({"a": 1, "b": "c"}, [])


def test_many_mistakes_are_shown_in_part_and_counted(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("\n".join("---\nkind: Nothing" for _ in range(30)))
    with pytest.raises(ResourceError) as caught:
        load(tmp_path / "x.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "60 mistakes:"
    assert len(lines) == 22
    assert lines[-1] == "  … and 40 more"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.from_regex(r"\A[-+]?[0-9oxbe_:.]{1,8}\Z")
    | st.sampled_from(["on", "y", "~", "null", "<<", "=", "1e3", "0o7", "08"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcon<1:", max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(values=st.lists(st.dictionaries(st.text("abc", min_size=1), json_values, min_size=1), min_size=1, max_size=3))
def test_what_we_write_is_read_back_as_it_was(values: list[dict[str, Any]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(dump_all(values), encoding="utf-8")
    documents, mistakes = read_documents(path)
    assert mistakes == []
    assert [document.data for document in documents] == values


hostile_text = st.sampled_from(
    [
        "1:30",
        "on",
        "&a ",
        "*a",
        "<<: ",
        "!!set ",
        "[" * 70,
        "{",
        "]",
        "\t",
        "\x00",
        "\ufeff",
        "- ",
        "? ",
        ": ",
        "|\n",
        ">+9\n",
        "%YAML 1.1\n---\n",
        "---\n",
        "...\n",
        '"\\ud800"',
        "1e999",
        "9" * 5000,
        "'",
        '"',
        "\r",
        "\x85",
        "\u2028",
        "!",
        "@",
        "`",
    ]
)


@st.composite
def hostile_yaml(draw: st.DrawFn) -> bytes:
    """A document of ours with a piece cut out, doubled or put in; or no document at all."""
    if draw(st.integers(0, 9)) == 0:
        pieces = st.lists(hostile_text, max_size=12).map(lambda parts: "".join(parts).encode())
        return draw(st.binary(max_size=40) | pieces)
    text = draw(st.sampled_from(SHORT)).read_text(encoding="utf-8")
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 1, 5, 40])))
        text = text[:start] + draw(hostile_text | st.just(text[start:end] * 2) | st.text(max_size=3)) + text[end:]
    return text.encode("utf-8", "surrogatepass")


def test_no_document_escapes(tmp_path: Path) -> None:
    """Every document is a resource or a list of mistakes with the file's name; nothing else is raised."""
    path = tmp_path / "x.yaml"
    seen = {"resources": 0, "mistakes": 0}

    @settings(max_examples=CAMPAIGN, deadline=None, derandomize=True, database=None)
    @given(content=hostile_yaml())
    @example(content=b"")
    def campaign(content: bytes) -> None:
        path.write_bytes(content)
        try:
            load(path, resolve=False)
        except ResourceError as error:
            refused = error
        else:
            seen["resources"] += 1
            return
        seen["mistakes"] += 1
        assert refused.mistakes
        assert all(mistake.file == str(path) and mistake.message for mistake in refused.mistakes)
        str(refused).encode()  # it can be printed

    campaign()
    print(f"{sum(seen.values())} hostile YAML documents: {seen}")
    assert sum(seen.values()) >= CAMPAIGN
    assert min(seen.values()) > CAMPAIGN / 50


def test_the_loader_agrees_with_pyyaml_where_nobody_differs() -> None:
    """Our own examples mean the same to both."""
    for path in EXAMPLES:
        wanted = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]
        documents, mistakes = read_documents(path)
        assert mistakes == []
        assert [document.data for document in documents] == wanted
    assert isinstance(documents[0], Document)
    assert issubclass(CoreLoader, yaml.SafeLoader)


@given(st.recursive(st.text(max_size=40), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=40), inner)))
@example(["🚀", "\\🚀", "\\ud83d\\ude80", "\U0010ffff", "\ufeff\uffff\x7f\x85\u2028"])
def test_json_for_a_yaml_reader_says_the_same(value: Any) -> None:
    """PyYAML, as Kubernetes' reader of applied objects, refuses surrogates, and characters that do not print."""
    written = json_in_yaml(value)
    assert written.isascii()
    assert yaml.safe_load(written) == value
