"""YAML files as documents of plain data, with the line of every key: read as `kubectl` reads them, but nothing silent.

Where PyYAML would quietly do something else than the API server (a key twice, a date, a key that is no string), it is
a mistake here, or a plain string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from toolorchestra.api.mistakes import Mistake, dotted
from toolorchestra.api.schema import Path


class _Loader(yaml.SafeLoader):
    """SafeLoader without timestamps: JSON has none, so the API server sees a string."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own protocol
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Document:
    """One document of a file. `index` counts from 1; `lines` maps a path to the line of its key, from 1."""

    file: str
    index: int
    data: Any
    lines: Mapping[Path, int] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """`Kind/name`, as far as the document says."""
        if not isinstance(self.data, Mapping):
            return ""
        metadata = self.data.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        kind = self.data.get("kind")
        return "/".join(str(part) for part in (kind, name) if part)

    def mistake(self, path: Path, message: str) -> Mistake:
        """A mistake at that path, on the line of the path or of its nearest parent that is there."""
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
    """The files behind paths; of a folder its `*.yaml` and `*.yml`, by name."""
    files: list[FilePath] = []
    mistakes: list[Mistake] = []
    for path in map(FilePath, paths):
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix in (".yaml", ".yml"))
            if not inside:
                mistakes.append(Mistake(file=str(path), message="no *.yaml file in this folder"))
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            mistakes.append(Mistake(file=str(path), message="no such file"))
    return list(dict.fromkeys(files)), mistakes


def read_documents(file: FilePath) -> tuple[list[Document], list[Mistake]]:
    """All documents of a file; empty ones (`---` twice) are passed over, a file with none is a mistake."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [], [Mistake(file=str(file), message=f"cannot be read: {error}")]
    documents: list[Document] = []
    mistakes: list[Mistake] = []
    loader = _Loader(text)
    try:
        index = 0
        while loader.check_node():
            index += 1
            reader = _Reader(loader=loader, file=str(file), index=index)
            node = loader.get_node()
            assert node is not None
            data = reader.read(node, ())
            mistakes += reader.mistakes
            if data is not None:
                documents.append(Document(file=str(file), index=index, data=data, lines=reader.lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.context, error.problem, error.note) if part)
        mistakes.append(Mistake(file=str(file), line=mark.line + 1 if mark else None, message=f"not YAML: {words}"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mistakes.append(Mistake(file=str(file), message=f"not YAML: {error}"))
    finally:
        loader.dispose()
    if not documents and not mistakes:
        mistakes.append(Mistake(file=str(file), message="the file holds no document"))
    return documents, mistakes


@dataclass
class _Reader:
    """Turns the nodes of one document into plain data, noting lines and what is not JSON."""

    loader: _Loader
    file: str
    index: int
    lines: dict[Path, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    open_nodes: set[int] = field(default_factory=set)

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self.open_nodes:
            self._mistake(node, path, "an alias of the value it stands in: this never ends")
            return None
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, position)) for position, item in enumerate(node.value)]
            return self.loader.construct_object(node)
        finally:
            self.open_nodes.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        written = [key.value for key, _ in node.value]
        self.loader.flatten_mapping(node)
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.loader.construct_object(key_node)
            if not isinstance(key, str):
                self._mistake(key_node, path, f"a key must be a string: put {key_node.value} in quotes")
                key = str(key_node.value)
            if key in data and written.count(key) > 1:
                self._mistake(
                    key_node, (*path, key), f"the key is there twice (first on line {self.lines[(*path, key)]})"
                )
                continue
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            data[key] = self.read(value_node, (*path, key))
        return data

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
