"""The mutants of a source file: mutmut's mutations of its nodes, and the negation of conditions.

mutmut 3 as a program does not fit here: it mutates no decorated function and no class body (frozen dataclasses are full
of both), negates no condition, and numbers its mutants, so that a name of today is another mutant tomorrow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

LOGGERS = ("log", "_log", "logger", "logging", "warnings")
UNTOUCHED_CALLS = ("isinstance", "cast", "TypeVar", "NewType")
TESTED = (cst.If, cst.While, cst.CompIf, cst.Assert)
SHORT = 12
"""Code of fewer characters is shown with what is around it."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    `file`: as in the repository. `function`: qualified name, "" for what runs at import. `lines`: first and last line
    of the statement, or of its head, that holds the change.
    """

    file: str
    function: str
    operator: str
    change: str
    lines: tuple[int, int]
    before: cst.CSTNode
    after: cst.CSTNode

    @property
    def key(self) -> str:
        """What it is known by: as stable as the code that it changes."""
        return " | ".join((self.file, self.function, self.operator, self.change))


def negate(node: cst.If | cst.While | cst.CompIf | cst.Assert) -> Iterator[cst.CSTNode]:
    test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    inverse = node.test.expression if isinstance(node.test, cst.UnaryOperation) else cst.UnaryOperation(cst.Not(), test)
    if not (isinstance(node.test, cst.UnaryOperation) and isinstance(node.test.operator, cst.Not)):
        yield node.with_changes(test=inverse)  # "not" is taken away by mutmut


def is_text(node: cst.CSTNode) -> bool:
    """Words for people: a formatted string, or one with a space in it."""
    if isinstance(node, cst.FormattedString | cst.ConcatenatedString):
        return True
    return isinstance(node, cst.SimpleString) and " " in node.value.strip("\"'")


def changed_argument(before: cst.Call, after: cst.Call) -> cst.Arg:
    """The one of `before` that is not in `after`."""
    kept = {id(arg) for arg in after.args}
    (changed,) = [arg for arg in before.args if id(arg) not in kept]
    return changed


class Source:
    """A parsed file."""

    def __init__(self, root: Path, file: str) -> None:
        self.root, self.file, self.path = root, file, root / file
        wrapper = MetadataWrapper(cst.parse_module(self.path.read_text()))
        self.module = wrapper.module
        self._parents = wrapper.resolve(ParentNodeProvider)
        self._positions = wrapper.resolve(PositionProvider)

    def mutated(self, mutant: Mutant) -> str:
        """The whole file with the change in it."""
        changed = self.module.deep_replace(mutant.before, mutant.after)
        assert isinstance(changed, cst.Module)
        code: str = changed.code
        return code

    def mutants(self) -> list[Mutant]:
        """All, in the file's order. What changes a message, an annotation, a docstring or a log is none."""
        found, seen = [], Counter[str]()
        for node in self._visited(self.module):
            for operator, after in self._mutations(node):
                change = self._change(operator, node, after)
                mutant = Mutant(self.file, self._function(node), operator, change, self._lines(node), node, after)
                seen[mutant.key] += 1
                if (nth := seen[mutant.key]) > 1:
                    mutant = Mutant(**{**vars(mutant), "change": f"{change} (#{nth})"})
                found.append(mutant)
        return found

    def _mutations(self, node: cst.CSTNode) -> Iterator[tuple[str, cst.CSTNode]]:
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                name = operator.__name__.removeprefix("operator_")
                afters: Iterable[cst.CSTNode] = operator(node)
                for after in afters:
                    if self._is_worth_it(name, node, after):
                        yield name, after
                    if name == "string":
                        break  # its other spellings are killed by the same tests
        if isinstance(node, TESTED):
            yield from (("negate", after) for after in negate(node))

    def _is_worth_it(self, name: str, node: cst.CSTNode, after: cst.CSTNode) -> bool:
        """Not a change of words; nor a constant or a field's default that is none: what imports it falls over."""
        if name == "assignment" and not self._function(node):
            return False
        if is_text(node) or (isinstance(node, cst.Assign | cst.AnnAssign) and node.value and is_text(node.value)):
            return False
        if isinstance(node, cst.Float) and isinstance(after, cst.Float):
            return bool(node.evaluated_value != after.evaluated_value)  # one more than 1e100 is 1e100
        if name == "arg_removal" and isinstance(node, cst.Call) and isinstance(after, cst.Call):
            changed = changed_argument(node, after)
            if self._is_left_alone(changed):
                return False
            # What has no name cannot be left out: the call would fail. What has one may have a default.
            by_name, left_out = changed.keyword is not None, len(after.args) < len(node.args)
            return by_name == left_out and not is_text(changed.value)
        return True

    def _visited(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        if self._is_left_alone(node):
            return
        yield node
        for child in node.children:
            yield from self._visited(child)

    def _is_left_alone(self, node: cst.CSTNode) -> bool:
        match node:
            case cst.Annotation() | cst.Decorator() | cst.Raise() | cst.Import() | cst.ImportFrom() | cst.TypeAlias():
                return True
            case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()):
                return True
            case cst.If(test=cst.Name(value="TYPE_CHECKING")):
                return True
            case cst.Arg(keyword=cst.Name(value="strict")):  # of zip: an assertion
                return True
            case cst.Subscript(value=cst.Name(value="Literal")):
                return True
            case cst.Call(func=cst.Name(value=name)) if name in UNTOUCHED_CALLS:
                return True
            case cst.Call(func=cst.Attribute(value=cst.Name(value=name))) if name in LOGGERS:
                return True
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name)), *_]):
                return name in (*LOGGERS, "__all__")
            case cst.ClassDef():
                return any(isinstance(base.value, cst.Name) and base.value.value == "Protocol" for base in node.bases)
        return False

    # ── where it is ────────────────────────────────────────────────────────────────────────────────────────────

    def _above(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        while (parent := self._parents.get(node)) is not None:
            yield parent
            node = parent

    def _function(self, node: cst.CSTNode) -> str:
        """The outermost function around it, by its qualified name; "" for its defaults, which are made at import."""
        names: list[str] = []
        inside = ""
        below = node
        for above in self._above(node):
            if isinstance(above, cst.FunctionDef):
                inside, names = (above.name.value, []) if below is above.body else ("", [])
            elif isinstance(above, cst.ClassDef):
                names.append(above.name.value)
            below = above
        return ".".join([*reversed(names), inside]) if inside else ""

    def _lines(self, node: cst.CSTNode) -> tuple[int, int]:
        for above in (node, *self._above(node)):
            if isinstance(above, cst.SimpleStatementLine):
                where = self._positions[above]
                return where.start.line, where.end.line
            if isinstance(above, cst.BaseCompoundStatement | cst.MatchCase):
                where = self._positions[above]
                body = getattr(above, "body", None)
                last = self._positions[body].start.line if isinstance(body, cst.IndentedBlock) else where.end.line
                return where.start.line, max(where.start.line, last)
        return 1, 1

    def _change(self, operator: str, before: cst.CSTNode, after: cst.CSTNode) -> str:
        """Both codes in one line, with so much around them that they are found."""
        here, inside = before, after
        if operator == "arg_removal" and isinstance(before, cst.Call) and isinstance(after, cst.Call):
            argument = changed_argument(before, after).with_changes(comma=cst.MaybeSentinel.DEFAULT)
            left = "nothing" if argument.keyword else "None"
            return f"{self._code(before.func)}: {self._code(argument)} → {left}"
        if isinstance(before, cst.Match) and isinstance(after, cst.Match):
            (gone,) = [case for case in before.cases if all(case is not one for one in after.cases)]
            return f"case {self._code(gone.pattern)} → nothing"
        for above in self._above(before):
            if len(self._code(here)) >= SHORT or isinstance(
                above, cst.BaseCompoundStatement | cst.BaseSuite | cst.Module
            ):
                break
            changed = above.deep_replace(here, inside) if here in above.children else above
            here, inside = above, changed
        return f"{self._code(here)} → {self._code(inside)}"

    def _code(self, node: cst.CSTNode) -> str:
        text = self.module.code_for_node(node)
        if isinstance(node, cst.If | cst.While):
            body = cst.SimpleStatementSuite([cst.Pass()])
            text = self.module.code_for_node(node.with_changes(body=body, orelse=None)).split(": pass")[0]
        return re.sub(r"\s+", " ", re.sub(r"^\s*#.*$", "", text, flags=re.M)).strip()
