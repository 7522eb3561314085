"""The documentation says what is there: its links, its YAML, the code that it names, the notes of the journal."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.run_rig import model_folder, orchestra
from toolorchestra.api.load import load
from toolorchestra.cli.main import COMMANDS
from toolorchestra.controller.settings import money_problems, worst_case_usd

ROOT = Path(__file__).parents[3]
CODE = ROOT / "workers" / "toolorchestra"
OPERATOR = ROOT / "operator" / "toolorchestra_operator"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
OURS = [
    ROOT / "docs" / f"{name}.md" for name in ("architecture", "ledger", "one-machine", "quickstart", "troubleshooting")
]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def docstrings() -> Iterator[tuple[Path, str]]:
    """Every docstring of the code, and every string that explains a name."""
    for folder in (CODE, OPERATOR):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    yield path, " ".join(str(node.value.value).split())


def headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {title.replace("`", "") for title in titles}


def test_docstrings_cite_pages_and_headings_that_exist() -> None:
    cited = 0
    for path, text in docstrings():
        for name, heading, section in re.findall(r"\b([a-z-]+\.md)(?:, \"([^\"]+)\"| (§\d))?", text):
            cited += 1
            page = ROOT / "docs" / name
            assert page.is_file(), f"{path.name} cites {name}"
            assert not heading or heading in headings(page), f"{path.name} cites {name}, {heading}"
            assert not section or any(title.startswith(section) for title in headings(page)), f"{path.name}: {section}"
    assert cited > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


def names_in(path: Path) -> set[str]:
    """Everything that a module defines: `name` and `Class.name`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{each.name}" for each in inner}
    return found


def test_the_map_of_the_code_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)(?::\s+([\w.]+))?`", text)
    assert len(named) > 40
    known = set().union(*(names_in(path) for root in (CODE, OPERATOR) for path in root.rglob("*.py")))
    for file, name in named:
        if "/" in file:
            (path,) = [root / file for root in (CODE, OPERATOR) if (root / file).is_file()] or [None]
            assert path is not None, file
            assert not name or name in names_in(path), f"{file}: {name}"
    for name in re.findall(r"`([A-Z]\w+\.\w+)`", text):
        assert name in known, name


def test_the_ledgers_page_lists_every_note_of_the_journal() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in CODE.rglob("*.py"))
    written = set(re.findall(r"(?:\.note\(|_note_issues\((?:self\.)?journal, )\"(\w+)\"", source))
    page = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", page, re.MULTILINE))
    assert written >= {"incarnation", "set_aside", "step"}
    assert written - listed == set()


def test_commands_that_pages_show_exist() -> None:
    for page in PAGES:
        for command in re.findall(r"^\s*orchestra ([a-z-]+)\b", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert command in COMMANDS, f"{page.name}: orchestra {command}"


def test_the_readmes_training_is_one(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(blocks(ROOT / "README.md", "yaml")[0], encoding="utf-8")
    bundle = load(path)
    (training,) = bundle.trainings
    assert training.metadata.name == "router"
    allowance = worst_case_usd(training.spec, bundle.pools, chat=False)
    assert not list(money_problems(training.spec, bundle.pools, allowance=allowance)), "its cap has room for a group"


def test_the_quick_starts_training_could_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, skills, *_ = blocks(ROOT / "docs" / "quickstart.md", "yaml")
    (task,) = blocks(ROOT / "docs" / "quickstart.md", "json")
    data = tmp_path / "data"
    model_folder(data / "model")
    row = json.loads(task)
    rows = [row | {"id": f"capital-{i}", "instruction": f"{i}: {row['instruction']}"} for i in range(2000)]
    (data / "tasks.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(training, encoding="utf-8")
    Path("skills.yaml").write_text(skills, encoding="utf-8")
    arguments = ["-f", "mine.yaml", "--simulator", "skills.yaml", "--volume", "data=data", "--check"]
    *notes, last = orchestra("train", *arguments, "--device", "cpu").output.splitlines()
    assert last == "mine: could run here"
    note, tasks, experts, money, device = notes  # and nothing that is surely not meant
    assert note == "model: its chat template renders no tools: they go into the system message, in Hermes form"
    assert re.fullmatch(r"tasks: 1[56]\d\d to train on, [34]\d\d held out", tasks)
    assert experts == "experts: small, large"
    assert device == "device: the CPU, by --device cpu"
    assert re.fullmatch(r"money: \$[\d.]+ is reserved for each episode until its cost is known", money)


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_a_page_has_one_title(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
