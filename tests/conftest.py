"""What all tests share: the Hypothesis profile, and models of a few thousand weights, made once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import support.checked  # noqa: F401  what --jaxtyping-packages names: it does not import submodules itself

# A busy machine is no bug. What CI derandomises stays so: it is this profile's parent.
settings.register_profile("whatever the clock says", settings(deadline=None))
settings.load_profile("whatever the clock says")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small torch tests run on one thread: they share the machine with each other."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.tiny_model import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.tiny_model import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny-tied"), tied=True)
