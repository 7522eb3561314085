"""Where the answer is in a reply."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.tasks.answer import extract_answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("42", "42"),
        ("  42\n", "42"),
        (r"so \boxed{42}.", "42"),
        (r"first \boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\fbox{7} \fboxed {8}", "8"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{2", r"\boxed{2"),
        (r"\boxed{}", ""),
        ("<answer>a</answer> <answer> b\nc </answer>", "b\nc"),
        ("<ANSWER>x</Answer>", "x"),
        (r"<answer>no</answer> \boxed{yes} <answer>no</answer>", "yes"),
        ("<answer>open", "<answer>open"),
        (r"\\boxed{7}", "7"),
        (r"\boxed{1 \boxed{2} 3}", "2"),
        ("} {", "} {"),
        ("", ""),
    ],
)
def test_the_last_box_then_the_last_tag_then_all(reply: str, answer: str) -> None:
    assert extract_answer(reply) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"<think>\boxed{5}</think>It is 4.", "It is 4."),
        (r"\boxed{4} <think>or \boxed{5}?", "4"),
        (r"<think>I try \boxed{5}", ""),
        (r"\boxed{5}, hm</think>\boxed{4}", "4"),
        (r"<THINK>\boxed{5}</Think> \boxed{4}", "4"),
        (r"<thinking><answer>5</answer></thinking><answer>4</answer>", "4"),
        (r"<think>a<think>b</think>\boxed{5}</think>4", "4"),
        (r"\boxed{4}<think>\boxed{5}</think><think>\boxed{6}</think>", "4"),
    ],
)
def test_thoughts_are_no_answer(reply: str, answer: str) -> None:
    assert extract_answer(reply) == answer


@pytest.mark.parametrize(
    "unit",
    [
        *("\\boxed{", "\\", "\\boxed ", "{", "}", "\\boxed{}", "<answer>", "</answer>", "<answer", "<think>"),
        *("</think>", "<think></think>", "\\boxed{<think>", "\\\\boxed", " ", "\\boxed{{"),
    ],
)
def test_extraction_takes_linear_time(unit: str) -> None:
    """A million characters in at most a few seconds of CPU, on any machine; quadratic time would take days."""
    began = time.process_time()
    extract_answer(unit * (1_000_000 // len(unit)))
    assert time.process_time() - began < 5


@given(st.text(), st.text(alphabet=st.characters(blacklist_characters="{}\\")))
def test_a_closed_box_wins_over_what_precedes_it(before: str, answer: str) -> None:
    assert extract_answer(f"{before} \\boxed{{{answer}}}") == answer.strip()


@given(st.text(alphabet="\\boxed{}<answer>/ab "))
def test_any_text_gives_some_text(reply: str) -> None:
    assert extract_answer(reply) in reply
