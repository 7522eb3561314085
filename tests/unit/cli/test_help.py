"""What the commands say of themselves."""

from __future__ import annotations

from itertools import pairwise

import pytest
from typer.testing import CliRunner

from toolorchestra.cli.main import COMMANDS, app, paragraphs


def test_a_terminal_breaks_a_docstrings_lines_where_it_likes() -> None:
    assert paragraphs("First\n    line.\n\n    A second\n    paragraph.\n    ") == "First line.\n\nA second paragraph."


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_has_no_line_that_ends_early(name: str) -> None:
    """A line that is followed by a word which would have fitted was broken by the source, not by the terminal."""
    width = 80
    page = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": str(width), "NO_COLOR": "1"}).output
    prose = page.split("╭")[0].splitlines()
    for line, after in pairwise(prose):
        if line.strip() and after.strip():
            assert len(line.rstrip()) + 1 + len(after.split()[0]) > width - 2, line
