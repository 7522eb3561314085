"""The report of an invented run: its JSON, its page, and the commands that make and list them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from support.synthetic_run import GROUP_SIZE, SPEC, manifest, write_run, write_traces
from support.synthetic_traces import trace
from toolorchestra.cli.main import app
from toolorchestra.cli.running import _print_evaluations
from toolorchestra.evaluation.archive import NotARun, accepted_frames, training_spec
from toolorchestra.evaluation.episodes import pick
from toolorchestra.evaluation.facts import mismatch
from toolorchestra.evaluation.plots import dollars
from toolorchestra.evaluation.report import write_report
from toolorchestra.evaluation.rescore import rescore
from toolorchestra.evaluation.run_data import surviving
from toolorchestra.evaluation.series import call_shares, metric_series, pareto_front
from toolorchestra.ledger.journal import Journal, Kind
from toolorchestra.rewards.registry import RewardConfig, reward_config
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.rollout.trace import Ending
from toolorchestra.runs.run_dir import RunDir

STEPS, TASKS = 40, 320


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return write_run(tmp_path_factory.mktemp("runs") / "demo-1", steps=STEPS, tasks=TASKS)


@pytest.fixture(scope="module")
def report(run: RunDir) -> dict[str, Any]:
    return write_report(run.root)


@pytest.fixture(scope="module")
def page(run: RunDir, report: dict[str, Any]) -> str:
    return (run.root / "report.html").read_text()


def test_the_json_is_what_was_returned_and_names_every_system(run: RunDir, report: dict[str, Any]) -> None:
    assert json.loads((run.root / "report.json").read_text()) == report
    systems = {row["system"] for row in report["evaluations"]}
    assert {"policy", "initialPolicy", "bestExpert", "cheapest", "random", "cascade", "oracle"} < systems
    assert {row["seed"] for row in report["evaluations"]} == {7}


def test_facts_come_from_the_runs_files(report: dict[str, Any]) -> None:
    facts = report["facts"]
    assert facts["vllmVersion"] == "0.32.0"
    assert facts["weightPushes"] == STEPS
    assert facts["policyVersionsSeen"] == [f"0-{i}" for i in range(STEPS + 1)]
    assert facts["resultsInJournal"] == (2 * STEPS + 1) * GROUP_SIZE + 1
    assert (facts["bus"], facts["episodesOverBus"], facts["engineRestarts"]) == ("JetStream", 899, 1)
    assert facts["simulatedExperts"] == ["counter", "generalist", "sorter", "speller"]


def test_progress_runs_from_the_initial_policy_to_the_last(report: dict[str, Any]) -> None:
    rows = {r["system"]: r for r in report["evaluations"]}
    progress = report["progress"]
    assert [p["step"] for p in progress] == [0, 10, 20, 30, 40]
    assert progress[0]["accuracy"] == rows["initialPolicy"]["accuracy"]
    assert progress[-1]["nominalUSDPerTask"] == rows["policy"]["nominalUSDPerTask"]


def test_time_is_split_without_remainder(report: dict[str, Any]) -> None:
    seconds = report["secondsByUse"]
    assert "total" not in seconds
    assert sum(seconds.values()) == pytest.approx(3.9 * STEPS)


def test_mismatch_is_over_all_tokens_that_it_was_measured_on(report: dict[str, Any]) -> None:
    found = report["mismatch"]
    assert (found["steps"], found["tokens"]) == (STEPS, sum(900 + step for step in range(1, STEPS + 1)))
    middle = sum((0.0006 + 0.002 * step / STEPS) * (900 + step) for step in range(1, STEPS + 1)) / found["tokens"]
    assert found["k3"] == pytest.approx(middle)
    assert found["rms"] == pytest.approx(0.04)
    assert found["largestK3"] == pytest.approx(0.0026)
    assert found["healthyK3"][1] < found["mostK3"]


def test_of_a_run_that_has_no_such_token_nothing_is_said() -> None:
    assert mismatch([]) is None
    assert mismatch([{"mismatch_k3": 0.0, "mismatch_rms": 0.0, "mismatch_tokens": 0}, {"loss": 1.0}]) is None


def test_the_ledgers_account_is_shown(report: dict[str, Any]) -> None:
    account = report["account"]
    assert account["trained"] == 2 * STEPS * GROUP_SIZE
    assert account["excluded"] == GROUP_SIZE
    assert (account["unscored"], account["exact"]) == (1, True)


def test_training_dollars_add_up_to_the_journals(run: RunDir, report: dict[str, Any]) -> None:
    training = sum(usd for use, usd in report["actualUSDByUse"].items() if use.startswith("training"))
    paid = sum(decode_trace(f.body).components.actual_usd for f in accepted_frames(run.journal))
    assert training == pytest.approx(float(paid), rel=0.01)


class Page(HTMLParser):
    """Collects ids, links to ids, and anything that would make a request."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.requests: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.requests.append(value)


def test_the_page_is_self_contained(page: str) -> None:
    parsed = Page(page)
    assert parsed.requests == []
    assert "script" not in parsed.tags
    assert parsed.tags.count("svg") == 12
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_every_plot_has_a_description_and_no_two_share_an_id(page: str) -> None:
    assert len(re.findall(r'<svg role="img" aria-label="[^"]+"', page)) == 12
    clips = re.findall(r'<clipPath id="([^"]+)"', page)
    assert len(clips) == len(set(clips))


@pytest.mark.parametrize(
    "text",
    [
        "Simulated experts.",
        "On 320 tasks of heldOut the policy is right in",
        "vLLM 0.32.0",
        "came over JetStream",
        "always:generalist",
        '<span class="badge right">',
        '<span class="badge wrong">',
        "the counts add up",
        "&lt;think&gt;",
        "Please do chain_sum number 160 &lt;now&gt;.",
        "at most 0.0026 in a step",
        "a k3 of 0.0004 to 0.003 is usual, and above 0.015 is too much",
    ],
)
def test_the_page_says(page: str, text: str) -> None:
    assert text in page


def test_left_out_tasks_are_said_on_the_page_and_in_the_terminal(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "demo-2")
    run.root.mkdir()
    run.manifest.write_text(json.dumps(manifest()))
    out = Ending.EXPERT_UNAVAILABLE
    policy = [trace(task=t, pool="sorter", ending=out if t < 2 else Ending.ANSWERED) for t in range(9)]
    write_traces(run.evaluations / "heldOut" / "policy.traces", policy)
    journal = Journal(run.evaluations / "heldOut" / "initialPolicy.traces")
    for n in range(9):
        journal.append(Kind.UNSCORED, {"issue": f"demo.{n}.0.0.2", "usd": "0", "reason": "worker_lost"})
    journal.close()
    (row,) = write_report(run.root)["evaluations"]
    assert (row["system"], row["tasks"], row["unscored"]) == ("policy", 7, 2)
    page = " ".join((run.root / "report.html").read_text().split())
    assert "<td>7 <span" in page
    assert "Left out, since infrastructure ended them: policy 2, initialPolicy 9." in page
    console = Console(record=True, width=120)
    _print_evaluations(run, console)
    text = console.export_text()
    assert "heldOut: tasks without a score, because infrastructure failed: policy 2, initialPolicy 9" in text


def test_a_run_that_has_only_begun_still_has_a_page(tmp_path: Path) -> None:
    root = tmp_path / "young"
    root.mkdir()
    (root / "manifest.json").write_text("{}")
    assert CliRunner().invoke(app, ["report", str(root)]).exit_code == 0
    report = json.loads((root / "report.json").read_text())
    assert (report["evaluations"], report["gates"], report["account"]) == ([], [], None)
    page = (root / "report.html").read_text()
    assert "This run has not been evaluated yet." in page
    assert "this run has no endings" in page
    assert "Simulated experts." not in page


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARun, match=r"no manifest\.json"):
        write_report(tmp_path)


def test_a_report_says_nothing_of_the_demos_bars_unasked(run: RunDir) -> None:
    def printed(*options: str) -> list[str]:
        return CliRunner().invoke(app, ["report", str(run.root), *options]).stdout.splitlines()

    headline, page = printed()
    assert page == f"report: {run.root / 'report.html'}"
    assert printed("--acceptance")[0] == headline
    assert any(line.startswith("MISS") for line in printed("--bars"))


def test_report_command_prints_the_bars_and_can_check_them(run: RunDir) -> None:
    result = CliRunner().invoke(app, ["report", str(run.root), "--check"])
    assert result.exit_code == 1
    assert "MISS  policy's cost over bestExpert's: 0.36" in result.stdout
    assert result.stdout.splitlines()[-1] == f"report: {run.root / 'report.html'}"


def test_a_damaged_run_gets_a_message(tmp_path: Path) -> None:
    root = tmp_path / "broken"
    root.mkdir()
    (root / "manifest.json").write_text("{")
    result = CliRunner().invoke(app, ["report", str(root)])
    assert result.exit_code == 2
    assert str(root) in result.stderr


def test_runs_are_listed_and_shown(run: RunDir) -> None:
    folder = str(run.root.parent)
    listed = CliRunner().invoke(app, ["runs", "list", "--runs", folder]).stdout
    assert re.search(r"demo-1 .*Complete +40/40 ", listed)
    shown = json.loads(CliRunner().invoke(app, ["runs", "show", "demo-1", "--runs", folder, "--json"]).stdout)
    assert (shown["step"], shown["spentUSD"]) == (STEPS, 0.42)
    assert "version 0-40 is live" in shown["events"][-1]


def test_rescoring_reproduces_groups_from_the_journal(run: RunDir, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    options = ["--combiner", "MinMaxDot", "--weights", "outcome=1,cost=0.5", "--episodes", str(rows)]
    result = CliRunner().invoke(app, ["reward", str(run.root), *options])
    summary = json.loads(result.stdout)
    assert summary["groups"] == 2 * STEPS + 1
    assert summary["episodes"] == len(rows.read_text().splitlines()) == (2 * STEPS + 1) * GROUP_SIZE
    assert summary["kept"] + sum(summary["dropped"].values()) == summary["groups"]
    first = [json.loads(line) for line in rows.read_text().splitlines()[:GROUP_SIZE]]
    assert {row["task"] for row in first} == {"chain_sum-0"}
    assert max(row["reward"] for row in first) <= 1.5


def test_a_later_dispatch_of_an_episode_stands() -> None:
    old = trace(task=1, pool="generalist", outcome=0, group=3, sample=0)
    new = trace(task=1, pool="sorter", outcome=1, group=3, sample=0).model_copy(update={"issue": "demo.3.0.1.0"})
    other = trace(task=1, pool="counter", outcome=0, group=3, sample=1)
    (group,) = rescore([new, old, other], config=RewardConfig(combiner="MinMaxDot", weights={"outcome": 1}))
    assert group.result.rewards == (1.0, 0.0)
    assert group.traces[0].issue == "demo.3.0.1.0"


def test_the_config_is_read_from_the_manifests_spec() -> None:
    config = reward_config(training_spec(manifest()))
    assert (config.combiner, config.informative, config.weights["cost"]) == ("GDPO", True, 0.3)
    spec = {**SPEC, "reward": {"combiner": "MinMaxDot", "minRange": {"costUSD": "0.001", "latencyMilliseconds": 250}}}
    assert reward_config(spec).min_range == {"cost": 0.001, "latency": 0.25}


def test_a_step_done_again_after_a_resume_counts_once() -> None:
    rows = [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 2, "a": 3}, {"other": 1}]
    assert [row["a"] for row in surviving(rows)] == [1, 3]


def test_series_smooth_and_leave_out_what_is_no_number() -> None:
    series = metric_series([{"step": i, "x": i if i != 3 else None} for i in range(6)], "x")
    assert series is not None
    assert series.steps == [0, 1, 2, 4, 5]
    assert series.mean[2] == pytest.approx((0 + 1 + 2 + 4 + 5) / 5)
    assert metric_series([{"step": 1, "x": float("nan")}], "x") is None
    _, shares = call_shares([{"step": 1, "calls": {"a": 3, "b": 1}}, {"step": 2, "calls": {}}])
    assert shares == {"a": [0.75], "b": [0.25]}


def test_the_pareto_front_leaves_out_what_another_beats() -> None:
    points = {"cheap": (1.0, 0.5), "worse": (2.0, 0.4), "good": (3.0, 0.9), "dear": (9.0, 0.9)}
    assert pareto_front(points) == ["cheap", "good"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "$0"), (0.000976, "$0.000976"), (0.0027, "$0.0027"), (1.5, "$1.5"), (1234.4, "$1234"), (-0.02, "−$0.02")],
)
def test_dollars_never_carry_an_exponent(value: float, text: str) -> None:
    assert dollars(value) == text


def test_sample_episodes_are_one_right_and_one_wrong() -> None:
    traces = [trace(task=i, pool="sorter", outcome=i % 2) for i in range(6)]
    assert [t.components.outcome for t in pick(traces)] == [1, 0]
    assert len(pick([t for t in traces if t.components.outcome == 1])) == 1
