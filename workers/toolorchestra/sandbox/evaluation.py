"""A process in which text is never evaluated as code, though libraries call `eval` on it.

sympy's `parse_expr` and some of reasoning-gym's scorers evaluate what they are given. From `forbid_evaluation` on every
code object that comes from text is looked at before it runs (the audit event `exec`, PEP 578): literals, arithmetic and
calls of a fixed list of mathematical names may run, and nothing else, so that no code of an answer's ever does. The
list holds for libraries that nobody looked at, too.
"""

from __future__ import annotations

import collections
import dataclasses
import dis
import sys
from types import CodeType
from typing import Any

from toolorchestra.sandbox.errors import SandboxError

CONSTRUCTORS = frozenset({"Integer", "Float", "Rational", "Symbol", "Function"})
"""What sympy's parser itself writes around numbers and names."""
FUNCTIONS = frozenset(
    (
        *("sqrt", "exp", "log", "ln", "Abs", "sign", "pi", "oo"),
        *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc"),
        *("sinh", "cosh", "tanh", "coth", "sech", "csch", "asinh", "acosh", "atanh"),
    )
)
_IMPORT = "from sympy import *"
"""What the parser executes first, for its own names."""
_TRUSTED = frozenset({collections.__file__, dataclasses.__file__})
"""Modules that write code for the classes of modules being imported."""


_REACHING = frozenset(
    dis.opmap[name]
    for name in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "IMPORT_NAME", "IMPORT_FROM")
    if name in dis.opmap
)
"""Instructions that get from a value to something that was not written down."""


class EvaluationRefused(SandboxError):
    """Text was about to be evaluated that is more than arithmetic."""


def is_arithmetic(code: CodeType) -> bool:
    """Only literals, operators, and calls of known mathematical names or of names of one letter (variables)."""
    if any(isinstance(constant, CodeType) for constant in code.co_consts):
        return False  # a lambda or a comprehension
    if not _REACHING.isdisjoint(code.co_code[::2]):
        return False
    return all(len(name) == 1 or name in CONSTRUCTORS or name in FUNCTIONS for name in code.co_names)


def forbid_evaluation() -> None:
    """For the rest of this process's life and its children's: EvaluationRefused where text is evaluated as code."""
    imported = compile(_IMPORT, "<string>", "exec").co_code

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "exec":
            return
        code = arguments[0]
        if not isinstance(code, CodeType) or _of_a_file(code) or is_arithmetic(code):
            return
        if code.co_code == imported and code.co_names == ("sympy",) and code.co_consts == (0, ("*",), None):
            return
        if sys._getframe(1).f_code.co_filename in _TRUSTED:
            return
        raise EvaluationRefused(f"refused to evaluate text that uses {', '.join(code.co_names)[:100] or 'nested code'}")

    sys.addaudithook(look)


def _of_a_file(code: CodeType) -> bool:
    """A module's, as imports run them."""
    return not code.co_filename.startswith("<") or code.co_filename.startswith("<frozen ")
