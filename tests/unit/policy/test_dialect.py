"""Chat templates that lack something: what is found, what is laid out, and that conversations still only grow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorchestra.policy.dialect import Dialect, dialect_of
from toolorchestra.policy.fake import byte_renderer
from toolorchestra.policy.renderer import Renderer
from toolorchestra.policy.template import ChatTemplate, TemplateError

BYTES = byte_renderer()
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "ask",
        "description": "Ask.",
        "parameters": {"type": "object", "properties": {"model": {"type": "string", "enum": ["oak"]}}},
    },
}
SMOLLM2 = (  # SmolLM2-135M-Instruct's, word for word
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATING = (  # as Gemma's: no system role, roles must alternate, another end of a message than the eos token
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
NINE_CHARACTERS = (  # as Mistral's: tools are rendered, results only with a call id of nine characters
    "{% for m in messages %}{% if m.role == 'tool' %}{% if m.tool_call_id is not defined or m.tool_call_id|length != 9"
    " %}{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "[TOOL_RESULTS]{{ m.content }}{% else %}{% if tools and loop.last %}[TOOLS]{{ tools | tojson }}{% endif %}"
    "{{ m.role }}: {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
DROPS_TOOLS_ROLE = "{% for m in messages %}{% if m.role != 'tool' %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
TEMPLATES = {
    "smollm2": (SMOLLM2, Dialect(tools=False, call_form=True)),
    "alternating": (ALTERNATING, Dialect(system_role=False, tools=False, tool_role=False)),
    "nine characters": (NINE_CHARACTERS, Dialect(tool_role=False, call_form=False)),
    "no tool role": (DROPS_TOOLS_ROLE, Dialect(tools=False, tool_role=False)),
}
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is 2 + 2?"}]


def renderer_of(source: str) -> Renderer:
    template = ChatTemplate({"default": source}, special_tokens={})
    return Renderer(tokenizer=BYTES._tokenizer, template=template, stop_token_ids=BYTES.stop_token_ids)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_lacks_is_found_by_trying_it(name: str) -> None:
    source, wanted = TEMPLATES[name]
    assert dialect_of(ChatTemplate({"default": source}, special_tokens={})) == wanted
    assert len(wanted.said) == sum(not had for had in vars(wanted).values())


def test_a_template_that_has_everything_gets_the_messages_as_they_are() -> None:
    assert BYTES.dialect == Dialect()
    assert Dialect().lay_out(MESSAGES, [TOOL]) == (MESSAGES, [TOOL])
    assert Dialect().said == ()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tools_and_the_systems_words_reach_the_prompt(name: str) -> None:
    text = renderer_of(TEMPLATES[name][0]).text(MESSAGES, tools=[TOOL])
    for part in ("be brief", "what is 2 + 2?", '"oak"'):
        assert part in text


def test_tools_that_a_template_leaves_out_are_written_as_qwens_writes_them() -> None:
    text = renderer_of(SMOLLM2).text(MESSAGES, tools=[TOOL])
    assert text.startswith("<|im_start|>system\nbe brief\n\n# Tools\n\nYou may call one or more functions")
    assert '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>' in text


def test_results_of_one_turn_are_one_message_where_roles_must_alternate() -> None:
    results = [{"role": "tool", "content": "four"}, {"role": "tool", "content": "five"}]
    said = {"role": "assistant", "content": "calling"}
    text = renderer_of(ALTERNATING).text([*MESSAGES, said, *results], tools=[TOOL])
    want = "<tool_response>\nfour\n</tool_response>\n<tool_response>\nfive\n</tool_response>"
    assert f"<|im_start|>user\n{want}<|im_end|>" in text


TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(TEMPLATES)), st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), max_size=3)
)
def test_a_conversation_only_ever_grows_in_every_dialect(name: str, turns: list[tuple[str, list[str]]]) -> None:
    renderer = renderer_of(TEMPLATES[name][0])
    conversation = renderer.conversation(MESSAGES, tools=[TOOL])
    for output, results in turns:
        before = list(conversation.prompt)
        ids = [*renderer.encode(output), renderer.stop_token_ids[0]]
        conversation.said(ids, text=output)
        forked = conversation.observe([{"role": "tool", "content": text} for text in results])
        # Mistral's shape moves the tools to the last message: such a template rewrites history, and the sample forks.
        assert forked == (name == "nine characters")
        assert forked or conversation.prompt[: len(before) + len(ids)] == before + ids
        for text in results:
            assert text.strip() in renderer.decode(conversation.prompt)


def test_the_end_of_a_message_is_the_templates_and_not_the_tokenizers() -> None:
    source = ALTERNATING.replace("<|im_end|>", "<|im_start|>")
    assert renderer_of(source).stop_token_ids[0] == BYTES.encode("<|im_start|>")[0]
    assert renderer_of(ALTERNATING).stop_token_ids == BYTES.stop_token_ids


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ messages[0].content + 1 }}", "refused the messages"),
        ("hello", "does not show the user's message"),
    ],
)
def test_a_template_that_shows_nothing_is_refused_in_words(source: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        renderer_of(source)
