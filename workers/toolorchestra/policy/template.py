"""Renders chat templates to text exactly as `transformers` does, with jinja2 only.

The environment below repeats transformers' `apply_chat_template` (sandboxed, trimmed blocks, loop controls, `tojson`
without HTML escapes and with `ensure_ascii=False`, `raise_exception`, `strftime_now`, the `generation` block). If a
prompt differs by one space, the base model has never seen that prompt in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from toolorchestra.policy.errors import PolicyError
from toolorchestra.policy.model_file import ModelFileError, read_words

DEFAULT = "default"
TOOL_USE = "tool_use"
"""Names that transformers gives the templates of a model that has several."""


_RAISED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors that a template's expressions can raise besides jinja's own errors: a template is third-party code."""


class TemplateError(PolicyError, ValueError):
    """A model folder has no usable chat template, or a template refuses the messages."""


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks assistant text for transformers' masks; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 reads the class attribute)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """One or more named templates, and the special tokens that they may use."""

    def __init__(self, templates: Mapping[str, str], *, special_tokens: Mapping[str, str]) -> None:
        environment = _environment()
        self._special_tokens = dict(special_tokens)
        self._render: dict[str, Callable[..., str]] = {}
        for name, source in templates.items():
            try:
                self._render[name] = environment.from_string(source).render
            except jinja2.exceptions.TemplateError as error:
                raise TemplateError(f"chat template {name!r} does not compile: {error}") from error
        if DEFAULT not in self._render:
            raise TemplateError(f"no default chat template among {sorted(self._render) or 'none'}")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
    ) -> str:
        """Return the prompt's text. TemplateError if the template refuses (for example an unknown role)."""
        name = TOOL_USE if tools and TOOL_USE in self._render else DEFAULT
        try:
            return self._render[name](
                messages=messages,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (jinja2.exceptions.TemplateError, *_RAISED) as error:
            raise TemplateError(f"the chat template refused the messages: {error}") from error


def load_templates(folder: Path, config: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
    """Return the templates of a model folder and the file that has them.

    `chat_template.jinja` comes first, as in transformers; otherwise the tokenizer's config.
    """
    file, other = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.exists():
        try:
            return file, {DEFAULT: read_words(file)}
        except ModelFileError as error:
            raise TemplateError(str(error)) from error
    match config.get("chat_template"):
        case None:
            raise TemplateError(
                f"{folder}: no chat template (looked for chat_template.jinja and chat_template in"
                " tokenizer_config.json); add one, or start from a chat model"
            )
        case str() as source:
            return other, {DEFAULT: source}
        case list() as entries if all(_is_named(entry) for entry in entries):
            return other, {entry["name"]: entry["template"] for entry in entries}
    raise TemplateError(f"{other}: chat_template: want a text, or a list of objects with name and template")


def _is_named(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(isinstance(entry.get(key), str) for key in ("name", "template"))
