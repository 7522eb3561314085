"""`orchestra trace RUN EPISODE` on a journal as the controller writes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.episode_world import CHAT_TASK, QA_TASK, RENDERER, VIEW, FakeExperts, answer, ask, host_of, order_of, play
from toolorchestra.cli.main import app
from toolorchestra.ledger.journal import Journal, Kind
from toolorchestra.policy.prompts import chat_messages, chat_tools
from toolorchestra.rollout.codec import encode_trace


@pytest.fixture
async def run(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text("{}")
    journal = Journal(tmp_path / "journal" / "journal.bin")
    journal.note("incarnation", number=0)
    qa = await play(order_of(issue="uid.3.1.0.0"), host_of(["[bold]nonsense[/bold]", answer("oak")]))
    experts = FakeExperts({"pool-dear": "long " * 1000})
    chat = await play(order_of(CHAT_TASK, issue="uid.4.0.0.2"), host_of([ask(("elm", "2+2?")), "4"], experts=experts))
    lost = await play(order_of(issue="uid.5.0.0.0"), host_of([]))
    journal.append(Kind.ACCEPTED, {"issue": qa.issue}, encode_trace(qa))
    journal.append(Kind.ACCEPTED, {"issue": chat.issue}, encode_trace(chat))
    journal.append(Kind.UNSCORED, {"issue": lost.issue}, encode_trace(lost))
    journal.close()
    return tmp_path


def printed(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["trace", *map(str, arguments)], env={"COLUMNS": "160", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output


def test_an_episode_is_told_in_order(run: Path) -> None:
    text = printed(run, "3.1")
    told = [
        "uid.3.1.0.0",
        "2 + 2?",
        "good at all",
        "turn 1: the policy wrote",
        "refused: no_call",
        "[bold]nonsense[/bold]",
        "turn 2: the policy wrote",
        "answer: pool-cheap (as oak) ok",
        "answered",
        "outcome 1",
    ]
    assert [text.find(part) for part in told] == sorted(text.find(part) for part in told)
    assert all(part in text for part in told)


async def test_what_others_wrote_is_neither_markup_nor_obeyed_by_a_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e[/nothing] [link=file:///etc/passwd]x[/link]\r"
    (tmp_path / "manifest.json").write_text("{}")
    journal = Journal(tmp_path / "journal" / "journal.bin")
    task = QA_TASK.model_copy(update={"instruction": evil, "topic": evil, "source": evil})
    view = VIEW.model_copy(update={"experts": tuple(e.model_copy(update={"description": evil}) for e in VIEW.experts)})
    order = order_of(task, issue="uid.6.0.0.0").model_copy(update={"view": view})
    played = await play(order, host_of([evil, answer("oak")], experts=FakeExperts({"pool-cheap": evil})))
    journal.append(Kind.ACCEPTED, {"issue": played.issue}, encode_trace(played))
    journal.close()
    for text in (printed(tmp_path), printed(tmp_path, "6.0")):
        assert "[/nothing]" in text
        assert "\\x1b]0;owned\\x07" in text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_a_narrow_terminal_still_says_why_an_output_was_refused(run: Path) -> None:
    result = CliRunner().invoke(app, ["trace", str(run), "3.1"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert "refused: no_call" in result.output


def test_a_piped_list_has_a_whole_line_for_each_episode(run: Path) -> None:
    result = CliRunner().invoke(app, ["trace", str(run)], env={"COLUMNS": "40", "NO_COLOR": "1"})
    assert "…" not in result.output
    assert all(re.match(r"\d+\.\d+ ", line) for line in result.output.splitlines()[1:])


def test_a_run_is_found_in_another_folder_of_runs(run: Path) -> None:
    assert printed(run.name, "3.1", "--runs", run.parent) == printed(run, "3.1")


def test_long_texts_are_cut_unless_asked_for(run: Path) -> None:
    assert "characters more; --full shows them" in printed(run, "4.0")
    assert "characters more" not in printed(run, "4.0", "--full")


def test_an_unscored_episode_says_why(run: Path) -> None:
    text = printed(run, "uid.5.0.0.0")
    assert "engine_lost" in text
    assert "not scored" in text
    assert "the fake engine's script has no more texts" in text


def test_the_record_as_json(run: Path) -> None:
    assert json.loads(printed(run, "3.1", "--json"))["issue"] == "uid.3.1.0.0"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of the tokenizer that the episodes were played with."""
    folder = tmp_path / "model"
    folder.mkdir()
    RENDERER._tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_the_exact_prompt_and_its_ids(run: Path, model: Path) -> None:
    (run / "driver.json").write_text(json.dumps({"model_dir": str(model)}))
    asked, wrote, given, answered = json.loads(printed(run, "4.0", "--prompt", "--json"))
    assert [piece["written"] for piece in (asked, wrote, given, answered)] == [False, True, False, True]
    messages, tools = chat_messages(CHAT_TASK, VIEW), chat_tools(VIEW)
    assert tuple(asked["token_ids"]) == RENDERER.render(messages, tools=tools)
    assert asked["text"] == RENDERER.text(messages, tools=tools)
    assert wrote["text"] == ask(("elm", "2+2?")) + "<|im_end|>"
    assert given["text"].startswith("\n<|im_start|>user\n<tool_response>\nlong long")
    text = printed(run, "4.0", "--prompt")
    assert asked["text"] in text
    assert f"ids: {' '.join(map(str, asked['token_ids']))}\n" in text
    assert "[bold]nonsense[/bold]<|im_end|>" in printed(run, "3.1", "--prompt"), "what a model wrote is no markup"


def test_a_prompt_of_a_run_whose_model_is_elsewhere(run: Path, model: Path) -> None:
    assert "--model DIR" in printed(run, "3.1", "--prompt", code=2)
    assert "2 + 2?" in printed(run, "3.1", "--prompt", "--model", model)


def test_an_episode_in_which_the_policy_was_never_asked(run: Path, model: Path) -> None:
    assert "the policy was never asked: engine_lost" in printed(run, "5.0", "--prompt", "--model", model)


def test_without_an_episode_all_are_listed(run: Path) -> None:
    text = printed(run)
    assert [word in text for word in ("3.1", "4.0", "5.0", "engine_lost", "pool-dear ×1")] == [True] * 5


def test_an_unknown_episode_is_a_message(run: Path) -> None:
    assert "no episode '9.9'" in printed(run, "9.9", code=2)
