"""Rehearsal before anything starts: plays one turn of a task of each mode, with a tool's result and without a model.

It uses the same renderer, modes and parser as the workers. A chat template or tokenizer that cannot represent the
experts' aliases, a call or a result is refused here with a message, before money is spent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from toolorchestra.controller.errors import ControllerError
from toolorchestra.controller.instances import Instance, Instances
from toolorchestra.policy.engine import Generation
from toolorchestra.policy.parser import THINK_CLOSE, ToolCall, format_calls, parse
from toolorchestra.policy.prompts import ToolSchema
from toolorchestra.policy.renderer import Renderer
from toolorchestra.policy.template import TemplateError
from toolorchestra.rollout.modes.mode import Mode
from toolorchestra.rollout.modes.of_kind import mode_of
from toolorchestra.rollout.trace import Call

LOOKED_AT = 256
"""How many tasks are searched for one of each mode."""
_RESULT = "the rehearsal's result"
_ENDLESS = 1 << 30


class RehearsalError(ControllerError, ValueError):
    """The model cannot be trained on these tasks; the text says what its template or tokenizer cannot represent."""


def rehearse(instances: Instances, renderer: Renderer, *, vocabulary: int | None = None) -> tuple[str, ...]:
    """Play one turn of each mode, and return notes for the user; RehearsalError where training cannot work.

    `vocabulary`: number of tokens that the model has embeddings for, if known.
    """
    said = list(renderer.dialect.said)
    for instance in one_of_each_kind(instances):
        try:
            said += _play(instance, instances, renderer, vocabulary=vocabulary)
        except TemplateError as error:
            raise RehearsalError(f"{instance.task.kind} tasks: {error}") from error
    return tuple(said)


def one_of_each_kind(instances: Instances) -> Iterator[Instance]:
    """Yield the first training instance of each kind of task."""
    seen: set[str] = set()
    for group in range(min(LOOKED_AT, instances.suite.train_size)):
        instance = instances.instance(group)
        if instance.task.kind not in seen:
            seen.add(instance.task.kind)
            yield instance


def _play(instance: Instance, instances: Instances, renderer: Renderer, *, vocabulary: int | None) -> Iterator[str]:
    task, view = instance.task, instance.view
    limits = instances.limits.model_copy(update={"max_prompt_tokens": _ENDLESS})
    mode = mode_of(task, view, renderer=renderer, limits=limits)
    prompt = mode.prompt() or ()
    shown = renderer.decode(prompt)
    missing = [expert.alias for expert in view.experts if not _holds(shown, expert.alias)]
    if missing:
        raise RehearsalError(
            f"{task.kind} tasks: the prompt does not show the experts {', '.join(missing)}: the chat template drops"
            " them, or the tokenizer cannot write them"
        )
    if len(prompt) > instances.limits.max_prompt_tokens:
        yield (
            f"the first prompt of task {task.id} has {len(prompt)} tokens, more than maxPromptTokens"
            f" ({instances.limits.max_prompt_tokens}): its episodes end at once"
        )
    written = _call(mode, instance, renderer)
    if written > instances.limits.max_response_tokens:
        yield (
            f"a short call of {task.kind} tasks has {written} tokens, more than maxResponseTokens"
            f" ({instances.limits.max_response_tokens}): it would be truncated and not count as a call"
        )
    answered = mode.prompt() or ()
    if not _holds(renderer.decode(answered), _RESULT):
        raise RehearsalError(f"{task.kind} tasks: the next prompt does not show the result of a tool")
    if vocabulary is not None and (unknown := [token for token in (*prompt, *answered) if token >= vocabulary]):
        raise RehearsalError(
            f"{task.kind} tasks: a prompt has the token {renderer.decode(unknown[:1])!r}, number {unknown[0]}, but the"
            f" model has only {vocabulary} embeddings (vocab_size in config.json): the tokenizer belongs to another"
            " model, or tokens were added to it without enlarging the embeddings"
        )
    if mode.forks:
        yield (
            "its chat template changes earlier messages when more messages follow: every turn of a chat becomes a"
            " sample of its own"
        )


def _call(mode: Mode, instance: Instance, renderer: Renderer) -> int:
    """Play a call of the first tool and its result; return the number of tokens of the call."""
    (tool, *_), alias = mode.tools, instance.view.experts[0].alias
    wanted = ToolCall(tool["function"]["name"], _arguments(tool, alias=alias))
    ids = (*renderer.encode(format_calls([wanted])), renderer.stop_token_ids[0])
    text = renderer.decode(ids)
    parsed = parse(text, tools=mode.tools, rules=mode.rules)
    if parsed.calls != (wanted,):
        raise RehearsalError(f"the tokenizer cannot represent a tool call: encoded and decoded it is {text!r}")
    mode.said(Generation(token_ids=ids, logprobs=(0.0,) * len(ids), spans=()), text=text, parsed=parsed)
    mode.observe([Call(tool=wanted.name, name=alias, alias=alias, status="refused", observation=_RESULT)])
    # A tokenizer may encode the call in fewer tokens where it normally stands: after a thought.
    return min(len(ids), len(renderer.encode(f"\n{THINK_CLOSE}\n{format_calls([wanted])}")) + 1)


def _arguments(tool: ToolSchema, *, alias: str) -> dict[str, str]:
    names = tool["function"]["parameters"]["properties"]
    return {name: alias if name == "model" else "Why?" for name in names}


def _holds(text: str, wanted: str) -> bool:
    """Return whether the text has `wanted`, ignoring spaces, case and compatible forms, which tokenizers may change."""
    return _plain(wanted) in _plain(text)


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
