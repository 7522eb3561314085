"""Where the answer is in a reply."""

from __future__ import annotations

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
        ("", ""),
    ],
)
def test_the_last_box_then_the_last_tag_then_all(reply: str, answer: str) -> None:
    assert extract_answer(reply) == answer


@given(st.text(), st.text(alphabet=st.characters(blacklist_characters="{}\\")))
def test_a_closed_box_wins_over_what_precedes_it(before: str, answer: str) -> None:
    assert extract_answer(f"{before} \\boxed{{{answer}}}") == answer.strip()


@given(st.text(alphabet="\\boxed{}<answer>/ab "))
def test_any_text_gives_some_text(reply: str) -> None:
    assert extract_answer(reply) in reply
