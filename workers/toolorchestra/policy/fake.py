"""An engine without a model, for tests and for embedding: a script, or a function of the prompt. Public."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from toolorchestra.policy.engine import EngineLost, Generation, GenerationParameters, VersionSpan
from toolorchestra.policy.renderer import Renderer
from toolorchestra.policy.template import ChatTemplate

Reply = Callable[[str], str]
"""Maps the text of a prompt to the text of the output."""


class FakeEngine:
    """An engine that answers with given texts in order, or with `reply` of the prompt's text.

    The end-of-turn token follows each text unless that would exceed `max_tokens`. Every logprob is `logprob`.
    `prompts` records the prompts. EngineLost if the script has no more texts.
    """

    def __init__(
        self,
        renderer: Renderer,
        reply: Reply | Iterable[str],
        *,
        version: str = "0-0",
        delay_seconds: float = 0.0,
        logprob: float = -0.5,
    ) -> None:
        self._renderer = renderer
        self._reply = reply if callable(reply) else None
        self._script = iter(()) if callable(reply) else iter(reply)
        self._delay_seconds = delay_seconds
        self._logprob = logprob
        self.version = version
        self.prompts: list[tuple[int, ...]] = []

    def _text(self, prompt: Sequence[int]) -> str:
        if self._reply is not None:
            return self._reply(self._renderer.decode(prompt))
        text = next(self._script, None)
        if text is None:
            raise EngineLost("the fake engine's script has no more texts")
        return text

    async def routable(self, *, version: str | None = None) -> None:
        """Return at once: the fake may always be asked."""

    async def generate(
        self, prompt: Sequence[int], *, parameters: GenerationParameters, version: str | None = None
    ) -> Generation:
        """Answer from the script or with `reply`."""
        self.prompts.append(tuple(prompt))
        if version is not None and version != self.version:
            raise EngineLost(f"no engine with version {version}: the fake serves {self.version}")
        ids = (*self._renderer.encode(self._text(prompt)), self._renderer.stop_token_ids[0])
        await asyncio.sleep(self._delay_seconds)
        kept = ids[: parameters.max_tokens]
        return Generation(
            token_ids=kept,
            logprobs=(self._logprob,) * len(kept),
            spans=(VersionSpan(self.version, 0, len(kept)),),
            truncated=len(kept) < len(ids),
            service_seconds=self._delay_seconds,
            wall_seconds=self._delay_seconds,
        )


def byte_renderer() -> Renderer:
    """Return a renderer without a model: one token per byte, ChatML, Hermes tool calls as special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    source = (files("toolorchestra.policy") / "chatml.jinja").read_text(encoding="utf-8")
    template = ChatTemplate({"default": source}, special_tokens={"eos_token": "<|im_end|>"})
    return Renderer(tokenizer=tokenizer, template=template, stop_token_ids=[len(alphabet)])
