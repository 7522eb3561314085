"""The docs' generated pages: up to date, whole, and true to the code that writes conditions and refuses changes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from toolorchestra.api.conditions import (
    POOL_CONDITIONS,
    TRAINING_CONDITION_ORDER,
    TRAINING_CONDITIONS,
    PoolConditionType,
    Reason,
    TrainingConditionType,
)
from toolorchestra.api.kinds import CUSTOM_RESOURCES
from toolorchestra.api.reference.changes import EFFECTS, refused
from toolorchestra.api.reference.explanations import EXPLAINED
from toolorchestra.api.schema import Schema, structural_schema
from toolorchestra.cli.crds import pages
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.planning.plan import Action, Plan, SetFinalizer
from toolorchestra_operator.runtime.metrics import Meter

REPOSITORY = Path(__file__).parents[3]
DOCS = REPOSITORY / "docs"
ROOMS = ("controller", "engines", "gpus", "ledger", "sizing", "trainer", "weights")
WRITERS = ("operator/toolorchestra_operator", *(f"workers/toolorchestra/{room}" for room in ROOMS))
"""Where conditions are decided, and where the controller gives its reasons."""

PREFIX = "toolorchestra_operator_"
KEY = Key("ExpertPool", "team", "a")
Aspect = tuple[str, str, str]
"""Condition, status, reason."""


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in WRITERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def used() -> set[str]:
    """Members of Reason that some code names."""
    return {
        node.attr
        for _, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }


def written() -> set[Aspect]:
    """What the code writes in so many words: `says("Running", "True", Reason.TRAINING)`, `condition(…)`."""
    found = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or len(node.args) < 3:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            kind, status, reason = node.args[:3]
            if called in ("says", "condition") and isinstance(kind, ast.Constant) and isinstance(status, ast.Constant):
                named = isinstance(reason, ast.Attribute) and getattr(reason.value, "id", "") == "Reason"
                if named and isinstance(reason, ast.Attribute):
                    found.add((str(kind.value), str(status.value), Reason[reason.attr].value))
    return found


def cells(text: str) -> list[list[str]]:
    """The cells of every row of every table."""
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.mark.parametrize("name", pages())
def test_pages_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == pages()[name], "run: make reference"


# ── conditions ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_says_where_what_and_what_to_do(reason: Reason) -> None:
    said = EXPLAINED[reason]
    assert said.meaning.endswith(".")
    assert said.remedy.endswith((".", "`"))
    for one in said.on:
        kind, _, status = one.partition("=")
        assert kind in (*TRAINING_CONDITIONS, *POOL_CONDITIONS)
        assert status in ("True", "False", "Unknown")


def test_every_condition_is_explained() -> None:
    assert list(TRAINING_CONDITIONS) == list(get_args(TrainingConditionType))
    assert set(TRAINING_CONDITION_ORDER) == set(TRAINING_CONDITIONS)
    assert list(POOL_CONDITIONS) == list(get_args(PoolConditionType))


def test_reasons_are_documented_on_the_conditions_that_the_code_writes_them_on() -> None:
    found = written()
    assert len(found) > 20, "the pattern no longer matches how conditions are written"
    missing = [
        f"{reason} on {kind}={status}"
        for kind, status, reason in found
        if f"{kind}={status}" not in EXPLAINED[Reason(reason)].on
    ]
    assert not missing, "add them in reference/explanations.py"


AWAITED = {"QUOTA_RESERVED", "QUOTA_UNKNOWN", "PREEMPTED"}
"""Of Kueue: nothing writes them while trainings ask no queue."""


def test_every_reason_is_used_by_some_code() -> None:
    unused = {reason.name for reason in Reason} - used()
    assert unused <= AWAITED, "wire them, or take them out"


def test_the_page_has_every_condition_and_every_reason_once() -> None:
    conditions, _, reasons = pages()["conditions.md"].partition("## Every reason")
    assert [row[0].strip("`") for row in cells(reasons)[1:]] == sorted(Reason)
    kinds = [row[0].strip("`") for row in cells(conditions) if row[0].startswith("`")]
    assert kinds == [*TRAINING_CONDITIONS, *POOL_CONDITIONS]


# ── what may change ────────────────────────────────────────────────────────────────────────────────────────────────


def leaves(schema: Schema, path: str) -> Iterator[str]:
    """The deepest fields that rules and EFFECTS may tell apart: fields of objects, not items of lists or maps."""
    inner = schema.get("properties")
    if not inner:
        yield path
        return
    for name, sub in inner.items():
        yield from leaves(sub, f"{path}.{name}")


@pytest.mark.parametrize("kind", CUSTOM_RESOURCES)
def test_every_field_is_refused_or_explained(kind: Any) -> None:
    schema = structural_schema(kind)
    covered = {where for where, _, _ in refused(schema)} | EFFECTS[kind.__name__].keys()
    bare = [
        leaf
        for leaf in leaves(schema["properties"]["spec"], "spec")
        if not any(leaf == one or leaf.startswith(f"{one}.") for one in covered)
    ]
    assert not bare, "say in EFFECTS what a change of these does"


@pytest.mark.parametrize("kind", CUSTOM_RESOURCES)
def test_what_is_refused_always_has_no_effect(kind: Any) -> None:
    always = {where for where, when, _ in refused(structural_schema(kind)) if when == "always"}
    effects: Mapping[str, str] = EFFECTS[kind.__name__]
    assert not [one for one in effects if any(one == where or one.startswith(f"{where}.") for where in always)]
    known = set(leaves(structural_schema(kind)["properties"]["spec"], "spec"))
    assert not [one for one in effects if not any(leaf == one or leaf.startswith(f"{one}.") for leaf in known)]


# ── operations ─────────────────────────────────────────────────────────────────────────────────────────────────────


def section(page: str, title: str) -> str:
    """A chapter of a page of the docs."""
    text = (DOCS / page).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n## {title}\n")
    assert rest, f"{page} has no chapter {title}"
    return rest.partition("\n## ")[0]


def test_the_operators_metrics_are_all_in_the_docs() -> None:
    meter = Meter()
    meter.looked(KEY, seconds=1.0, outcome="changed")
    meter.failed(KEY, RuntimeError())
    meter.carried_out(KEY, Plan((SetFinalizer(present=True),)))
    meter.request("get", "Secret", "200")
    meter.resynced(ok=True)
    exported = {}
    for family in meter.registry.collect():
        if family.name.startswith(PREFIX):
            name = family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else "")
            exported[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    told = {
        row[0].strip("`"): (row[1], set(filter(None, row[2].split(", "))))
        for row in cells(section("operations.md", "Metrics"))[1:]
    }
    assert told == exported


def test_the_actions_that_are_counted_are_all_in_the_docs() -> None:
    (row,) = (row for row in cells(section("operations.md", "Metrics")) if row[0] == "`actions_total`")
    assert set(re.findall(r"`(\w+)`", row[3])) == {one.__name__ for one in get_args(Action)} | {"Status"}


def test_the_alerts_are_all_in_the_docs() -> None:
    files = sorted((REPOSITORY / "charts/toolorchestra/files").glob("alerts*.yaml"))
    rules = "\n".join(file.read_text(encoding="utf-8") for file in files)
    found = set(re.findall(r"- alert: (\w+).*?severity: (\w+)", rules, flags=re.DOTALL))
    assert {(row[0].strip("`"), row[1]) for row in cells(section("operations.md", "Alerts"))[1:]} == found


# ── troubleshooting ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words",
    [
        "matches no ExpertPool with a role of an expert; there are:",
        "was deleted: make it again",
        "the operator sets this field, or nobody can; fields that can be set here:",
        "not available; the model is exported into storage, see status.exportURI",
        "no NATS server is known;",
        "is there already and belongs to",
        "the streams are being made",
        "the API key is refused, or missing",
        "there is nothing at this URL: should it end in /v1?",
        "cannot connect to",
        "it does not list",
        "pods cannot be made:",
        "has no storage class: is there a default one?",
        "the spend cap is reached:",
        "episodes failed:",
        "the last words:",
        "no step within",
        "waiting for the last checkpoint",
    ],
)
def test_symptoms_are_quoted_as_the_programs_say_them(words: str) -> None:
    assert words in (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert any(words in path.read_text(encoding="utf-8") for path, _ in sources()), (
        "say it in the docs as it is said now"
    )


# ── links ──────────────────────────────────────────────────────────────────────────────────────────────────────────

PAGES = sorted([*DOCS.glob("*.md"), REPOSITORY / "README.md"])


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        where = (page.parent / name) if name else page
        assert where.exists(), f"{page.name} → {target}"
        if anchor and where.suffix == ".md":
            assert anchor in anchors(where.read_text(encoding="utf-8")), f"{page.name} → {target}"


def test_the_index_lists_every_page() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} == listed
