"""Read and write YAML by the core schema of YAML 1.2, limited to values that JSON has.

PyYAML reads YAML 1.1, and kubectl reads a mixture of 1.1 and 1.2: `1:30` is 90, text or an error; `0777` is 511 or 777.
A scalar that they would read differently is refused, with what to write instead. So a file means the same here and on a
cluster. Sources: https://yaml.org/spec/1.2.2/#103-core-schema, https://yaml.org/type/ (1.1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

from toolorchestra.api.errors import InputError

MOST_BYTES = 2 << 20
"""Largest file. The API server accepts less (1.5 MiB per resource)."""
MOST_DEPTH = 64
"""Deepest nesting of lists and mappings."""
MOST_VALUES = 200_000
"""Most values of a file, with its aliases expanded. A few lines of nested aliases can expand to billions of values."""

_TAG = "tag:yaml.org,2002:"
KNOWN_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))
MERGE = f"{_TAG}merge"

_RESOLVERS: list[tuple[str, str, list[str]]] = [
    ("null", r"~|null|Null|NULL|", ["", *"~nN"]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
    ("merge", r"<<", ["<"]),
]
"""Tag, pattern, and the characters that a match can begin with."""

_AMBIGUOUS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"), "a boolean or text"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "a number in base 60 or text"),
    (re.compile(r"[-+]?(0o?[0-7_]+|0b[01_]+)|[-+]?0[0-9]+"), "a number in another base, a decimal number or text"),
    (re.compile(r"[-+]?(0x|[0-9.])[0-9a-fA-F_.]*_[0-9a-fA-F_.]*"), "a number or text"),
]

_MOST_INT = 1 << 63
_MOST_AMBIGUOUS = 64
"""Longest text that can be meant as a number. It bounds the work of the patterns."""


class CoreLoader(yaml.SafeLoader):
    """SafeLoader with the resolvers of the core schema and bounded depth. Use only its nodes (`get_node`)."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own protocol
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        try:
            if self._depth > MOST_DEPTH:
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, f"nested deeper than {MOST_DEPTH} levels", mark)
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


for _name, _pattern, _first in _RESOLVERS:
    CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


class CoreDumper(yaml.SafeDumper):
    """SafeDumper that quotes every text that a YAML reader could take for another type. It writes no aliases."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own protocol
        first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *resolvers]
        for first, resolvers in (yaml.SafeDumper.yaml_implicit_resolvers | CoreLoader.yaml_implicit_resolvers).items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _ambiguous, _ in _AMBIGUOUS:
    CoreDumper.add_implicit_resolver("ambiguous", re.compile(rf"(?:{_ambiguous.pattern})\Z"), [*"yYnNoO+-.0123456789"])


def dump_all(documents: Iterable[Any]) -> str:
    """Return JSON values as YAML documents. `documents.read_documents` reads the same values back."""
    return str(yaml.dump_all(documents, Dumper=CoreDumper, sort_keys=False))


class ScalarRefused(InputError, ValueError):
    """A scalar that is refused. The text says why, and what to write."""


_PAIR = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})")


def json_in_yaml(value: Any) -> str:
    """Return ASCII JSON that is also valid YAML: the body of a server-side apply (`application/apply-patch+yaml`).

    JSON writes a character beyond U+FFFF as two surrogates, which YAML does not allow. One emoji in an annotation would
    make the API server refuse the whole object.
    """

    def escaped(pair: re.Match[str]) -> str:
        high, low = (int(half, 16) for half in pair.groups())
        return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"

    return _PAIR.sub(escaped, json.dumps(value))


def scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    """Return the value of a scalar node. ScalarRefused: it is not a JSON value, or it is ambiguous."""
    text, kind = str(node.value), node.tag.removeprefix(_TAG)
    if node.style is None and len(text) <= _MOST_AMBIGUOUS:
        for pattern, readings in _AMBIGUOUS:
            if pattern.fullmatch(text):
                raise ScalarRefused(
                    f"{_cut(text)} is {readings}, depending on the YAML reader: put it in quotes, or write it plainly"
                )
    match kind:
        case "null" if text.lower() in ("", "~", "null"):
            return None
        case "bool" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "int":
            return _whole(text)
        case "float":
            return _real(text)
        case "str" | "merge":
            return _text(text)
        case _:
            raise ScalarRefused(f"the tag {node.tag.replace(_TAG, '!!')} is not supported: write a plain value")


def _whole(text: str) -> int:
    hexadecimal = text.startswith("0x")
    try:
        # Python limits the number of digits: a million of them would take minutes.
        number = int(text, 16 if hexadecimal else 10)
    except ValueError:
        number = _MOST_INT if text.lstrip("-+").isdigit() else 0
        if not number:
            raise ScalarRefused(f"{_cut(text)} is not a whole number") from None
    if not -_MOST_INT <= number < _MOST_INT:
        raise ScalarRefused(f"{_cut(text)}: the number does not fit into 64 bits; put it in quotes if it is text")
    return number


def _real(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")  # .inf and .nan, which JSON does not have
    if not abs(number) < float("inf"):
        raise ScalarRefused(f"{_cut(text)}: JSON has no such number; put it in quotes if it is text")
    return number


def _text(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ScalarRefused("half of a surrogate pair is not text: write the character itself, or \\U0001F600")
    if "\0" in text:
        raise ScalarRefused("a NUL is not text: remove \\0")
    return text


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}…"
