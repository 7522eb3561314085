"""The demo's tokenizer: byte-level BPE over the demo's text, with whole tokens for format pieces, words and prices.

A word keeps the space after it, so that it is the same token in the middle of a line of the tool list and quoted alone.
Phrases that come back in a tenth of the questions are one token: prompts are what training on two cores spends its
time on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 1024
"""Tokens that BPE learns, beside the added ones."""

FORMAT_PIECES = (
    f"{START}system\n",
    f"{START}user\n",
    f"{START}assistant\n",
    f"{END}\n",
    "<think>\n",
    '\n</think>\n<tool_call>\n{"name": "answer", "arguments": {"model": "',
    '"}}\n</tool_call>',
    "\n- ",
    " | model: ",
    " | in ",
    " out ",
    " | ",
)
_STEPS = (1, 1.1, 1.2, 1.25, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)
PRICES = (*(f"{base * step:g}" for base in (0.01, 0.1, 1, 10) for step in _STEPS), "100")
"""Amounts that are one token with their dollar sign; any other is written out in digits."""

TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- if loop.first and tools %}"
    "{%- for tool in tools %}"
    "{%- set model = tool.function.parameters.properties.model %}"
    "{%- if model is defined and model.description %}"
    "{{- '\\n' + tool.function.name + ':\\n' + model.description }}"
    "{%- else %}{{- '\\n' + (tool | tojson) }}{%- endif %}"
    "{%- endfor %}"
    "{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def phrases(questions: Iterable[str], *, share: float = 0.1, words: int = 3) -> list[str]:
    """Stretches of at least `words` words, free of digits, quotes and line ends, found in that share of all texts."""
    texts = list(questions)
    found = Counter(
        part.strip()
        for text in texts
        for part in set(re.split(r"[\d\n\"():,=>×]+", text))
        if part.count(" ") >= words - 1
    )
    return sorted(part for part, count in found.items() if count >= share * len(texts))


def train_tokenizer(texts: Iterable[str], *, words: Iterable[str], phrases: Iterable[str] = ()) -> Tokenizer:
    """Learn the merges on `texts`; every one of `words` and `phrases` becomes a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\d|\n|\p{L}+ ?|[^\w\s] ?|\s"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = _added(words, phrases)
    # What becomes one token must not teach BPE merges of its parts.
    pieces = sorted((t.content for t in added), key=len, reverse=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=8,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT, START, END],
        show_progress=False,
    )
    tokenizer.train_from_iterator((_without(text, pieces[:60]) for text in texts), trainer)
    tokenizer.add_tokens(added)
    return tokenizer


def _added(words: Iterable[str], phrases: Iterable[str]) -> list[AddedToken]:
    pieces = [AddedToken(piece, normalized=False) for piece in (*FORMAT_PIECES, *phrases)]
    prices = [AddedToken(f"${price}", normalized=False, single_word=True) for price in PRICES]
    return pieces + prices + [AddedToken(word, normalized=False, single_word=True) for word in words]


def _without(text: str, pieces: Iterable[str]) -> str:
    for piece in pieces:
        if len(piece) > 2:
            text = text.replace(piece, "\n")
    return text


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """`tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`, as transformers and vLLM read them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
