"""Tests of this folder need helm, which the test bed builds once."""

from __future__ import annotations

import pytest

from support.chart import helm
from testbed.binaries import CannotBuild


@pytest.fixture(scope="session", autouse=True)
def _helm_is_there() -> None:
    try:
        helm()
    except CannotBuild as error:
        pytest.fail(str(error), pytrace=False)
