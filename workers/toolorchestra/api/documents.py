"""Read YAML files as documents of plain data, with the line of every key, as `kubectl` does but without silent changes.

Where YAML readers differ, or would silently differ from the API server (a repeated key, a date, a key that is not a
string), the value is a mistake here, or a plain string (`core_yaml`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from toolorchestra.api.core_yaml import (
    KNOWN_TAGS,
    MERGE,
    MOST_BYTES,
    MOST_DEPTH,
    MOST_VALUES,
    CoreLoader,
    ScalarRefused,
    scalar,
)
from toolorchestra.api.mistakes import Mistake, dotted
from toolorchestra.api.regular_file import FileRefused, read_text
from toolorchestra.api.schema import Path


@dataclass(frozen=True)
class Document:
    """One document of a file. `index` counts from 1; `lines` maps a path to the line of its key, from 1."""

    file: str
    index: int
    data: Any
    lines: Mapping[Path, int] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """`Kind/name`, as far as the document has them."""
        if not isinstance(self.data, Mapping):
            return ""
        metadata = self.data.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        kind = self.data.get("kind")
        return "/".join(str(part) for part in (kind, name) if part)

    def mistake(self, path: Path, message: str) -> Mistake:
        """Return a mistake at that path. Its line is that of the path, or of the nearest parent that has a line."""
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)
        return Mistake(
            file=self.file,
            document=self.index,
            line=line,
            subject=self.subject,
            path=dotted(path),
            message=message,
        )


def files_of(paths: Sequence[FilePath | str]) -> tuple[list[FilePath], list[Mistake]]:
    """Return the files behind paths, and mistakes. A folder stands for its `*.yaml` and `*.yml`, sorted by name."""
    files: list[FilePath] = []
    mistakes: list[Mistake] = []
    for path in map(FilePath, paths):
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix in (".yaml", ".yml"))
            if not inside:
                mistakes.append(Mistake(file=str(path), message="no *.yaml file in this folder"))
            files += inside
        elif path.exists():
            files.append(path)
        else:
            mistakes.append(Mistake(file=str(path), message="no such file"))
    return list(dict.fromkeys(files)), mistakes


def read_documents(file: FilePath) -> tuple[list[Document], list[Mistake]]:
    """Return all documents of a file, and mistakes. Empty documents are skipped; a file with none is a mistake."""
    try:
        text = read_text(file, most=MOST_BYTES)
    except FileRefused as error:
        return [], [Mistake(file=str(file), message=f"cannot be read: {error}")]
    documents: list[Document] = []
    mistakes: list[Mistake] = []
    budget = _Budget(MOST_VALUES)
    try:
        loader = CoreLoader(text)
        index = 0
        while loader.check_node():
            index += 1
            reader = _Reader(file=str(file), index=index, budget=budget)
            node = loader.get_node()
            assert node is not None
            data = reader.read(node, ())
            mistakes += reader.mistakes
            if data is not None:
                documents.append(Document(file=str(file), index=index, data=data, lines=reader.lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        mistakes.append(Mistake(file=str(file), line=line, message=f"not YAML: {_in_plain_words(error)}"))
    except yaml.reader.ReaderError as error:
        line, code = text.count("\n", 0, error.position) + 1, ord(text[error.position])
        mistakes.append(Mistake(file=str(file), line=line, message=f"not YAML: it contains the character U+{code:04X}"))
    if not documents and not mistakes:
        mistakes.append(Mistake(file=str(file), message="the file contains no document"))
    return documents, mistakes


_UNLIKE = ("<block mapping start>", "<block sequence start>", "'-'", "'?'")
"""Tokens that the parser reports where a line is not indented like its block."""


def _in_plain_words(error: yaml.MarkedYAMLError) -> str:
    """Explain a parser's error by its usual cause; the parser itself names only its tokens."""
    problem, block, here = error.problem or "", error.context_mark, error.problem_mark
    if block and here and problem.startswith("expected <block end>") and any(one in problem for one in _UNLIKE):
        return (
            f"this line begins in column {here.column + 1}, its block (from line {block.line + 1} on) in column"
            f" {block.column + 1}: correct the indentation, here or in the lines above"
        )
    words = ", ".join(part for part in (error.context, problem, error.note) if part)
    if r"character '\t'" in problem:
        return f"{words}: indent with spaces, not with tabs"
    if problem.startswith("mapping values are not allowed"):
        return f"{words}: put text with a colon and a space in quotes; or the indentation is wrong"
    return words


@dataclass
class _Budget:
    """How many more values a file may have, with its aliases expanded."""

    left: int

    def spend(self, node: yaml.Node, *, depth: int) -> None:
        self.left -= 1
        if self.left < 0:
            problem = f"the file has more than {MOST_VALUES} values with its aliases expanded: use fewer aliases"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if depth > MOST_DEPTH:
            problem = f"nested deeper than {MOST_DEPTH} levels with its aliases expanded"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


@dataclass
class _Reader:
    """Converts the nodes of one document into plain data. Collects lines, and values that JSON does not have."""

    file: str
    index: int
    budget: _Budget
    lines: dict[Path, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    open_nodes: set[int] = field(default_factory=set)

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.budget.spend(node, depth=len(self.open_nodes))
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self.open_nodes:
            self._mistake(node, path, "an alias of a value that contains it: this never ends")
            return None
        if node.tag not in KNOWN_TAGS:
            self._mistake(node, path, f"the tag {node.tag} is not supported: write a plain list or mapping")
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self.read(item, (*path, position)) for position, item in enumerate(node.value)]
        finally:
            self.open_nodes.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        try:
            return scalar(node)
        except ScalarRefused as error:
            self._mistake(node, path, str(error))
            return node.value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[yaml.MappingNode] = []
        for key_node, value_node in node.value:
            if key_node.tag == MERGE:
                merged += self._merged(value_node, path)
                continue
            key = self._key(key_node, path)
            if key in data:
                first = self.lines[(*path, key)]
                self._mistake(key_node, (*path, key), f"the key is repeated (first on line {first}): remove one")
                continue
            self.lines.setdefault((*path, key), key_node.start_mark.line + 1)
            data[key] = self.read(value_node, (*path, key))
        for parent in merged:
            inherited = self.read(parent, path)
            data = {**(inherited or {}), **data}
        return data

    def _key(self, node: yaml.Node, path: Path) -> str:
        try:
            key = scalar(node) if isinstance(node, yaml.ScalarNode) else None
        except ScalarRefused:
            key = None
        if isinstance(key, str):
            return key
        shown = node.value if isinstance(node, yaml.ScalarNode) else "it"
        self._mistake(node, path, f"a key must be a string: put {shown} in quotes")
        return str(shown)

    def _merged(self, node: yaml.Node, path: Path) -> list[yaml.MappingNode]:
        """Return the mappings that `<<` merges. If several have a key, the first value counts."""
        found = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if all(isinstance(one, yaml.MappingNode) for one in found):
            return list(found)
        self._mistake(node, path, "<< needs a mapping, or a list of mappings")
        return []

    def _mistake(self, node: yaml.Node, path: Path, message: str) -> None:
        self.mistakes.append(
            Mistake(
                file=self.file,
                document=self.index,
                line=node.start_mark.line + 1,
                path=dotted(path),
                message=message,
            )
        )
