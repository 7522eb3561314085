"""The package of docs/extending.md, installed for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.plugin_package import install_the_page


@pytest.fixture(scope="session")
def acme_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    return install_the_page(tmp_path_factory.mktemp("site"))


@pytest.fixture
def acme(acme_site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, which is on sys.path."""
    monkeypatch.syspath_prepend(acme_site)
    return acme_site
