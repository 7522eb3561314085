"""`make gpu-check` without a GPU: what it promises of any check, and the checks themselves in tiny sizes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from gpu import check as command
from gpu.catalogue import PART_SECONDS, PARTS, catalogue
from gpu.finding import Figure, Note, Skip, decode, encode
from gpu.identity import ROOT, Identity, digest_of
from gpu.place import Place
from gpu.result import Result, ResultsFile, report, table
from gpu.runner import Check, Run, run_all

OF = Identity(digest="d1", commit="c1", card="CPU")
PATIENCE = 60.0

HEAD = """
import os, subprocess, sys, threading
from pathlib import Path
from gpu.finding import Figure, Note, Skip

"""


@pytest.fixture
def a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Check]:
    """Makes a check of the body of its function."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), *sys.path]))
    (tmp_path / "modules").mkdir()

    def make(name: str, body: str, *, seconds: float = 1, limit: float = PATIENCE) -> Check:
        source = f"{HEAD}def check(place):\n{textwrap.indent(textwrap.dedent(body), '    ')}"
        (tmp_path / "modules" / f"made_{name}.py").write_text(source)
        return Check(name=name, module=f"made_{name}", what="", seconds=seconds, limit=limit, settings={"sized": 1})

    return make


@pytest.fixture
def run(tmp_path: Path) -> Run:
    place = Place(device="cpu", tiny=True, folder=tmp_path / "logs", scratch=tmp_path / "scratch")
    return Run(place=place, of=OF, results=ResultsFile(tmp_path / "out" / "gpu-results.json"), say=lambda _: None)


GOOD = 'yield Figure(name="speed", value=3.0, at_least=2.0)'


def test_each_end_is_told_apart_and_none_harms_the_next(a_check: Callable[..., Check], run: Run) -> None:
    checks = [
        a_check("good", GOOD),
        a_check("slow", 'yield Figure(name="speed", value=1.0, at_least=2.0)\nyield Note(name="why", text="x")'),
        a_check("raises", 'yield Figure(name="half", value=1)\nraise RuntimeError("no such kernel")'),
        a_check("aborts", 'yield Figure(name="half", value=1)\nos.abort()'),
        a_check("absent", 'yield Skip(reason="no model here")'),
        a_check("nothing", 'yield Figure(name="not a number", value=float("nan"), at_most=1)'),
    ]
    run_all(checks, run)
    results = run.results.read()
    assert {name: result.status for name, result in results.items()} == {
        "good": "ok",
        "slow": "missed",
        "raises": "failed",
        "aborts": "failed",
        "absent": "skipped",
        "nothing": "missed",
    }
    assert results["slow"].findings[1] == Note(name="why", text="x")
    assert [f.name for f in results["raises"].figures] == ["half"]
    assert "no such kernel" in (results["raises"].logs or {})["check.log"]
    assert "SIGABRT" in results["aborts"].reason
    assert results["absent"].reason == "no model here"
    assert results["good"].logs is None
    assert not any(run.place.scratch.iterdir())


def test_a_check_that_hangs_is_killed_with_its_family_and_says_where(a_check: Callable[..., Check], run: Run) -> None:
    body = """
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (place.folder / "engine.log").write_text("the engine's last words")
    yield Figure(name="child", value=child.pid)
    threading.Event().wait()  # hangs here
    """
    [result] = run_all([a_check("hangs", body, limit=8)], run)
    assert result.status == "late"
    [figure] = result.figures
    assert not psutil.pid_exists(int(str(figure.value)))
    logs = result.logs or {}
    assert "made_hangs.py" in logs["check.log"]
    assert logs["engine.log"] == "the engine's last words"


def test_what_is_found_is_in_the_file_at_once(a_check: Callable[..., Check], run: Run) -> None:
    """The check ends only when it has read its own finding in the results."""
    body = f"""
    yield Figure(name="first", value=1)
    while '"first"' not in Path({str(run.results.path)!r}).read_text():
        threading.Event().wait(0.01)
    yield Figure(name="first", value=2)
    """
    [result] = run_all([a_check("tells", body)], run)
    assert [(f.name, f.value) for f in result.figures] == [("first", 2)]
    assert result.status == "ok"


def test_a_pass_is_not_repeated_unless_code_card_or_options_changed(a_check: Callable[..., Check], run: Run) -> None:
    good, slow = a_check("good", GOOD), a_check("slow", GOOD.replace("3.0", "1.0"))
    said: list[str] = []
    run = replace(run, say=said.append)

    def repeated(checks: list[Check], run: Run) -> list[bool]:
        said.clear()
        run_all(checks, run)
        return [not line.startswith("known") for line in said]

    assert repeated([good, slow], run) == [True, True]
    assert repeated([good, slow], run) == [False, True]
    assert repeated([good], replace(run, of=replace(OF, commit="c2"))) == [False], "the same sources"
    assert repeated([good], replace(run, of=replace(OF, digest="d2"))) == [True]
    assert repeated([good], replace(run, of=replace(OF, digest="d2", card="H100"))) == [True]
    assert repeated([replace(good, settings={"sized": 2})], run) == [True]
    assert repeated([replace(good, settings={"sized": 2})], run) == [False]
    assert repeated([replace(good, settings={"sized": 2})], replace(run, again=True)) == [True]


def test_a_check_that_cannot_end_in_the_budget_is_not_begun(a_check: Callable[..., Check], run: Run) -> None:
    said: list[str] = []
    checks = [a_check("long", GOOD, seconds=400), a_check("short", GOOD, seconds=1)]
    made = run_all(checks, replace(run, budget=100, say=said.append))
    assert [result.check for result in made] == ["short"]
    assert list(run.results.read()) == ["short"]
    assert said[0].startswith("left out long")


def test_the_budget_is_a_time_limit_too(a_check: Callable[..., Check], run: Run) -> None:
    [result] = run_all([a_check("hangs", "threading.Event().wait()\nyield")], replace(run, budget=4))
    assert result.status == "late"
    assert result.reason == "killed after 4 s"


def test_a_run_that_is_killed_has_told_what_it_knew(a_check: Callable[..., Check], run: Run, tmp_path: Path) -> None:
    hangs = a_check("hangs", 'yield Figure(name="pid", value=os.getpid())\nthreading.Event().wait()')
    program = f"""
from pathlib import Path
from gpu.identity import Identity
from gpu.place import Place
from gpu.result import ResultsFile
from gpu.runner import Check, Run, run_all
place = Place(device="cpu", tiny=True, folder=Path({str(run.place.folder)!r}), scratch=Path({str(run.place.scratch)!r}))
of = Identity(digest="d1", commit="c1", card="CPU")
run_all([{hangs!r}], Run(place=place, of=of, results=ResultsFile(Path({str(run.results.path)!r}))))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + PATIENCE
    while not (results := run.results.read()) or not results["hangs"].figures:
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    [figure] = run.results.read()["hangs"].figures
    child = int(str(figure.value))
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the check outlived the run"
    assert run.results.read()["hangs"].status == "running"
    run_all([], run)
    cut = run.results.read()["hangs"]
    assert (cut.status, cut.reason) == ("failed", "the run was cut off while it was under way")
    assert cut.figures == (figure,)


def test_findings_survive_json() -> None:
    for finding in (
        Figure(name="a", value=0.25, unit="s", at_least=0.1),
        Figure(name="b", value=None, at_most=1),
        Note(name="n", text="x"),
        Skip(reason="r"),
    ):
        assert decode(json.loads(json.dumps(encode(finding)))) == finding


def test_bars() -> None:
    assert Figure(name="f", value=0.3, at_least=0.3).met is True
    assert Figure(name="f", value=0.29, at_least=0.3).met is False
    assert Figure(name="f", value=1.0, at_least=0.9, at_most=1.1).met is True
    assert Figure(name="f", value=1.2, at_least=0.9, at_most=1.1).met is False
    assert Figure(name="f", value=None, at_most=4).met is False
    assert Figure(name="f", value="nan", at_most=4).met is False
    assert Figure(name="f", value=7).met is None
    assert Figure(name="MFU", value=0.291, at_least=0.3).line() == "MFU 0.291 (MISSED bar ≥ 0.3)"
    assert Figure(name="speed", value=26200.4, unit="tokens/s").line() == "speed 26,200.4 tokens/s"


def test_table_and_page(run: Run) -> None:
    result = Result(
        check="step",
        status="missed",
        of=OF,
        settings={},
        began="now",
        seconds=70.4,
        findings=(Figure(name="mean |Δ|", value=0.29, at_least=0.3), Note(name="kernels", text="gemm 39 %")),
        logs={"check.log": "end"},
    )
    assert "|  | mean \\|Δ\\| | 0.29 | ≥ 0.3 | missed |\n" in table([result])
    page = report([result])
    assert "CPU; commit c1, sources d1" in page
    assert "## step: kernels\n\n```text\ngemm 39 %\n```" in page
    assert "## step: check.log" in page
    run.results.put(result)
    assert run.results.read() == {"step": result}


def test_the_digest_is_of_the_sources(tmp_path: Path) -> None:
    (tmp_path / "workers" / "a").mkdir(parents=True)
    file = tmp_path / "workers" / "a" / "b.py"
    file.write_text("1")
    first = digest_of(tmp_path)
    assert digest_of(tmp_path) == first
    file.write_text("2")
    assert digest_of(tmp_path) != first


def test_the_command_knows_its_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    listed = capsys.readouterr().out
    checks = catalogue(demo_steps=140, smollm=None)
    assert [line.split()[1] for line in listed.splitlines()] == [check.name for check in checks]
    for each in checks:
        assert (ROOT / "tests" / each.module.replace(".", "/")).with_suffix(".py").is_file()
        assert each.seconds < each.limit
    with pytest.raises(SystemExit, match="no check stepp; there are environment"):
        command.main(["--only", "stepp"])


def test_each_part_is_done_in_its_five_minutes() -> None:
    known = catalogue(demo_steps=command.options([]).demo_steps, smollm=None)
    for part in PARTS:
        assert sum(check.seconds for check in known if check.part == part) <= PART_SECONDS, part
