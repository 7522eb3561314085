"""Converts messages to token ids and back. Token ids are the wire format: the policy's output is never tokenised again.

Invariants:
- `Renderer.render` equals transformers' `apply_chat_template`, token for token, of the messages that the template's
  `Dialect` lays out. No prompt is cut or padded.
- `Conversation.observe` only appends: its prompt begins with every earlier prompt and output, id for id. The exception
  is a *fork* (it returns True): the template itself rewrites history, so the next prompt starts a new sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from toolorchestra.policy.dialect import dialect_of
from toolorchestra.policy.errors import PolicyError
from toolorchestra.policy.model_file import ModelFileError, read_object
from toolorchestra.policy.prompts import Message, ToolSchema
from toolorchestra.policy.template import ChatTemplate, TemplateError, load_templates

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MARKER = "\u2063orchestra\u2063"
"""Replaces the policy's own output when a template is asked what follows it. No model and no task writes this text."""
_CACHED_PROMPTS = 512
"""Siblings share a prompt, so the ids of the last prompts are cached (~1 MB per thousand short prompts)."""


class RendererError(PolicyError, ValueError):
    """A model folder cannot be used for rendering. The message names the file and the reason."""


class Renderer:
    """A model's tokenizer and chat template. `dialect` says how messages are adapted to the template (dialect.py).

    TemplateError if the template cannot be used at all.
    """

    def __init__(self, *, tokenizer: Tokenizer, template: ChatTemplate, stop_token_ids: Sequence[int]) -> None:
        if not stop_token_ids or tokenizer.id_to_token(stop_token_ids[0]) is None:
            raise RendererError("no end-of-sequence token: a turn of the policy could never end")
        # A tokenizer.json may contain the batch settings of its last user; they would cut or pad prompts.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._template = template
        self.dialect = dialect_of(template)
        self.stop_token_ids = self._closing_first(stop_token_ids)
        """Token ids that end a turn. The first is the template's end of a message."""
        self._stop_text = tokenizer.id_to_token(self.stop_token_ids[0]) or ""
        self.thinking_open = self.text([{"role": "user", "content": ""}]).rstrip().endswith("<think>")
        """Whether the template's generation prompt already opens the policy's thinking."""
        self._encode = lru_cache(maxsize=_CACHED_PROMPTS)(self._encode_uncached)

    @classmethod
    def load(cls, folder: Path) -> Renderer:
        """Read `tokenizer.json`, `tokenizer_config.json`, the chat template and, if present, `generation_config.json`.

        RendererError or TemplateError, with the file's name, if something is missing.
        """
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise RendererError(f"{folder}: no tokenizer.json; save_pretrained of a fast tokenizer writes one")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise RendererError(f"{file}: not a tokenizer: {error}") from error
        config_file = folder / "tokenizer_config.json"
        config = _read_object(config_file)
        special = {
            name: text for name in _SPECIAL_NAMES if (text := _token_text(config, name, config_file)) is not None
        }
        stops = _stop_token_ids(tokenizer, special, folder=folder)
        source, templates = load_templates(folder, config)
        try:
            return cls(
                tokenizer=tokenizer,
                template=ChatTemplate(templates, special_tokens=special),
                stop_token_ids=stops,
            )
        except TemplateError as error:
            raise TemplateError(f"{source}: {error}") from error

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text. No special tokens are added; those written in the text are recognised."""
        return self._encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a turn's ids, without the token that ended it. Special tokens inside stay visible."""
        ids = list(token_ids)
        while ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def text(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSchema] = (), add_generation_prompt: bool = True
    ) -> str:
        """Return the prompt as text."""
        laid, given = self.dialect.lay_out(messages, tools)
        return self._template.render(laid, tools=given, add_generation_prompt=add_generation_prompt)

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSchema] = (), add_generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """Return the prompt as token ids: equal to `apply_chat_template` of the messages that the dialect lays out."""
        return self._encode(self.text(messages, tools=tools, add_generation_prompt=add_generation_prompt))

    def continuation(
        self, history: Sequence[Message], new: Sequence[Message], *, tools: Sequence[ToolSchema] = ()
    ) -> tuple[int, ...] | None:
        """Return the ids that follow the policy's output when `new` messages come after it; None if there are none.

        A marker stands for the output, so that nothing the template does to assistant messages (Qwen3 removes earlier
        thinking) changes the real ids. None means: the template does not close the output with the stop token, or it
        renders the earlier messages differently when more messages follow.
        """
        stand_in: Message = {"role": "assistant", "content": _MARKER}
        head = self.text(history, tools=tools, add_generation_prompt=False)
        whole = self.text([*history, stand_in, *new], tools=tools)
        before, marker, after = whole.partition(_MARKER)
        between, stop, following = after.partition(self._stop_text)
        if not marker or not before.startswith(head) or not stop or between.strip():
            return None  # spaces before the end come from the template and were never sampled
        return self._encode(following)

    def _closing_first(self, stops: Sequence[int]) -> tuple[int, ...]:
        """Return the stop tokens, first the template's end of a message, which is often not the tokenizer's eos."""
        asked: Message = {"role": "user", "content": ""}
        text = self.text([asked, {"role": "assistant", "content": _MARKER}, asked])
        after = text.partition(_MARKER)[2].lstrip()
        added = self._tokenizer.get_added_tokens_decoder()
        known = {i: token.content for i, token in added.items() if token.special}
        known |= {i: word for i in stops if (word := self._tokenizer.id_to_token(i))}
        ends = sorted((i for i, word in known.items() if after.startswith(word)), key=lambda i: -len(known[i]))
        return tuple(dict.fromkeys((*ends[:1], *stops)))

    def conversation(self, messages: Sequence[Message], *, tools: Sequence[ToolSchema] = ()) -> Conversation:
        """Start a conversation that grows."""
        return Conversation(self, messages=messages, tools=tools)


class Conversation:
    """One growing conversation. `prompt` has the ids so far, which are the next prompt."""

    def __init__(self, renderer: Renderer, *, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> None:
        self._renderer = renderer
        self._tools = tools
        self._opening = list(messages)
        self._messages = list(messages)
        self._open = False
        self.prompt: list[int] = list(renderer.render(messages, tools=tools))

    def said(self, token_ids: Sequence[int], *, text: str) -> None:
        """Append the policy's output, with the sampled ids. `text` is only used after a fork."""
        self.prompt.extend(token_ids)
        self._messages.append({"role": "assistant", "content": text})
        self._open = not token_ids or token_ids[-1] not in self._renderer.stop_token_ids

    def observe(self, messages: Sequence[Message]) -> bool:
        """Append messages. Return True after a fork: `prompt` was rendered again and belongs to a new sample."""
        following = self._renderer.continuation(self._opening, messages, tools=self._tools)
        self._messages.extend(messages)
        if following is None:
            self.prompt = list(self._renderer.render(self._messages, tools=self._tools))
            return True
        if self._open:  # cut at the length limit: the end of the message was never sampled
            self.prompt.append(self._renderer.stop_token_ids[0])
        self.prompt.extend(following)
        return False


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file; empty if there is no file."""
    if not path.exists():
        return {}
    try:
        return read_object(path)
    except ModelFileError as error:
        raise RendererError(str(error)) from error


def _token_text(config: Mapping[str, Any], name: str, file: Path) -> str | None:
    """Return a special token of tokenizer_config.json, which is a text or an object with `content`; None if absent."""
    entry = config.get(name)
    text = entry.get("content") if isinstance(entry, Mapping) else entry
    if text is None and not isinstance(entry, Mapping):
        return None
    if not isinstance(text, str):
        raise RendererError(f"{file}: {name}: want a text, or an object whose content is one")
    return text


def _stop_token_ids(tokenizer: Tokenizer, special: Mapping[str, str], *, folder: Path) -> list[int]:
    """Return the tokenizer's eos token first, then the model's other stop tokens (generation_config.json)."""
    ids: list[int] = []
    if (eos := special.get("eos_token")) is not None:
        eos_id = tokenizer.token_to_id(eos)
        if eos_id is None:
            raise RendererError(f"{folder}: eos_token {eos!r} of tokenizer_config.json is not in tokenizer.json")
        ids.append(eos_id)
    file = folder / "generation_config.json"
    listed = _read_object(file).get("eos_token_id")
    for token_id in listed if isinstance(listed, list) else [] if listed is None else [listed]:
        if type(token_id) is not int:
            raise RendererError(f"{file}: eos_token_id: want a token's number, or a list of them")
        ids.append(token_id)
    if not ids:
        raise RendererError(
            f"{folder}: no end-of-sequence token, so a turn of the policy could never end: add eos_token to"
            " tokenizer_config.json, or eos_token_id to generation_config.json"
        )
    if tokenizer.id_to_token(ids[0]) is None:
        raise RendererError(f"{file}: eos_token_id {ids[0]} is not in tokenizer.json")
    return list(dict.fromkeys(ids))
