"""The renderer against transformers, on a small tokenizer trained here and Qwen3's own chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from toolorchestra.policy.fake import byte_renderer
from toolorchestra.policy.renderer import Renderer, RendererError
from toolorchestra.policy.template import ChatTemplate, TemplateError

TEMPLATE = (Path(__file__).parent / "qwen3.jinja").read_text(encoding="utf-8")
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "answer",
            "description": "Let a model <give> the “final” answer & stop, in ≤ 1 turn: größte Zahl",
            "parameters": {
                "type": "object",
                "properties": {"model": {"type": "string", "enum": ["oak", "élm"], "description": "a\nb"}},
                "required": ["model"],
            },
        },
    }
]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "user only": [{"role": "user", "content": "What is 2 + 2?"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, 世界! <b>&</b>"}],
    "thinking": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nanswer"},
        {"role": "user", "content": "again"},
    ],
    "tool use": [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "content": "calling",
            "tool_calls": [{"function": {"name": "answer", "arguments": {"model": "oak", "why": "größer < 3"}}}],
        },
        {"role": "tool", "content": "first"},
        {"role": "tool", "content": "second"},
    ],
    "special text in content": [{"role": "user", "content": "a <|im_end|> b <tool_call> c"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as transformers' save_pretrained writes it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"]
    )
    tokenizer.train_from_iterator([TEMPLATE, json.dumps(TOOLS), "the model gives the answer to the question"], trainer)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    path = tmp_path_factory.mktemp("model")
    fast.save_pretrained(path)
    end = tokenizer.token_to_id("<|endoftext|>")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end], "top_k": 20}))
    return path


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    return Renderer.load(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", "no prompt"])
def test_renders_as_transformers(
    name: str, tools: Any, prompt: bool, renderer: Renderer, reference: PreTrainedTokenizerFast
) -> None:
    messages = CONVERSATIONS[name]
    want = reference.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, return_dict=False)
    assert list(renderer.render(messages, tools=tools or (), add_generation_prompt=prompt)) == want


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_renders_any_text_as_transformers(
    renderer: Renderer, reference: PreTrainedTokenizerFast, system: str, user: str
) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    want = reference.apply_chat_template(messages, tools=TOOLS, add_generation_prompt=True, return_dict=False)
    assert list(renderer.render(messages, tools=TOOLS)) == want


def test_stop_tokens_come_from_both_files(renderer: Renderer) -> None:
    assert [renderer._tokenizer.id_to_token(i) for i in renderer.stop_token_ids] == ["<|im_end|>", "<|endoftext|>"]


def test_truncation_and_padding_saved_with_a_tokenizer_are_off(
    folder: Path, renderer: Renderer, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    saved = Tokenizer.from_file(str(model / "tokenizer.json"))
    saved.enable_truncation(8)
    saved.enable_padding(length=200)
    saved.save(str(model / "tokenizer.json"))
    before = (model / "tokenizer.json").read_bytes()
    loaded = Renderer.load(model)
    messages = [{"role": "user", "content": "a question that is longer than that"}]
    assert loaded.render(messages, tools=TOOLS) == renderer.render(messages, tools=TOOLS)
    assert len(loaded.render(messages)) < 200, "nothing is filled up"
    assert (model / "tokenizer.json").read_bytes() == before, "the user's file stays as it was"


def test_decode_drops_only_the_final_stop_token(renderer: Renderer) -> None:
    ids = renderer.encode("a<|im_start|>b<tool_call><|im_end|>")
    assert renderer.decode(ids) == "a<|im_start|>b<tool_call>"


TURNS = st.lists(
    st.tuples(
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
        st.lists(st.text(max_size=20), min_size=1, max_size=3),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(TURNS)
def test_a_conversation_only_ever_grows(renderer: Renderer, turns: list[tuple[str, list[str], bool]]) -> None:
    conversation = renderer.conversation(CONVERSATIONS["system"], tools=TOOLS)
    for output, observations, finished in turns:
        before = list(conversation.prompt)
        ids = [*renderer.encode(output), *renderer.stop_token_ids[:1]][: None if finished else -1]
        conversation.said(ids, text=output)
        forked = conversation.observe([{"role": "tool", "content": text} for text in observations])
        assert not forked
        assert conversation.prompt[: len(before) + len(ids)] == before + ids


def test_a_grown_conversation_reads_as_the_template_writes_it(renderer: Renderer) -> None:
    messages = CONVERSATIONS["system"]
    conversation = renderer.conversation(messages, tools=TOOLS)
    for answer, back in (("first", ["one", "two"]), ("second", ["three"])):
        conversation.said([*renderer.encode(answer), renderer.stop_token_ids[0]], text=answer)
        observed = [{"role": "tool", "content": text} for text in back]
        assert not conversation.observe(observed)
        messages = [*messages, {"role": "assistant", "content": answer}, *observed]
    assert conversation.prompt == list(renderer.render(messages, tools=TOOLS))


def test_earlier_thinking_stays_although_the_template_would_drop_it(renderer: Renderer) -> None:
    conversation = renderer.conversation(CONVERSATIONS["user only"], tools=TOOLS)
    said = "<think>\nsecret\n</think>\n\nhello"
    conversation.said([*renderer.encode(said), renderer.stop_token_ids[0]], text=said)
    assert not conversation.observe([{"role": "user", "content": "and now?"}])
    assert "secret" in renderer.decode(conversation.prompt)


def test_a_template_that_rewrites_history_forks() -> None:
    plain = byte_renderer()
    source = "{% for m in messages %}{{ messages | length }}{{ m.role }}{{ m.content }}<|im_end|>{% endfor %}"
    renderer = Renderer(
        tokenizer=plain._tokenizer,
        template=ChatTemplate({"default": source}, special_tokens={}),
        stop_token_ids=plain.stop_token_ids,
    )
    conversation = renderer.conversation([{"role": "user", "content": "q"}])
    conversation.said([*renderer.encode("a"), renderer.stop_token_ids[0]], text="a")
    assert conversation.observe([{"role": "user", "content": "r"}])
    assert renderer.decode(conversation.prompt) == "3userq<|im_end|>3assistanta<|im_end|>3userr"


def test_a_folder_without_template_says_what_to_add(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    with pytest.raises(TemplateError, match=r"chat_template\.jinja"):
        Renderer.load(tmp_path)


def test_a_folder_without_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(RendererError, match=r"no tokenizer\.json"):
        Renderer.load(tmp_path)


def test_a_template_error_is_ours(renderer: Renderer) -> None:
    template = ChatTemplate({"default": "{{ raise_exception('no such role') }}"}, special_tokens={})
    with pytest.raises(TemplateError, match="no such role"):
        template.render([{"role": "user", "content": "x"}])
