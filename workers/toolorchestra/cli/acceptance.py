"""Acceptance criteria at a terminal: one line each, and whether all are met."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from toolorchestra.cli.say import say
from toolorchestra.evaluation.acceptance import Criterion


def accepted(criteria: Sequence[Criterion]) -> bool:
    """Print each criterion; return False where one is missed, or where there is none, which is an error with a text."""
    for criterion in criteria:
        typer.echo(criterion.line())
    if not criteria:
        say("error: nothing to check: the run has not evaluated the policy and each expert alone yet", err=True)
    return bool(criteria) and all(criterion.passed for criterion in criteria)
