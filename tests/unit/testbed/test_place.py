"""One cluster with a node on a machine: who comes second is told so, and touches nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.node_cluster import NodeCluster
from testbed.packages import CannotRun
from testbed.place import holder, taken


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_place_is_held_until_it_is_given_back() -> None:
    assert holder() is None
    with taken():
        assert holder() == os.getpid()
        with pytest.raises(CannotRun, match="make cluster-down"), taken():
            pass
        assert holder() == os.getpid()
    assert holder() is None


def test_a_running_clusters_folder_is_not_touched(tmp_path: Path) -> None:
    mark = tmp_path / "cluster" / "admin.kubeconfig"
    mark.parent.mkdir()
    mark.write_text("in use")
    with taken(), pytest.raises(CannotRun):
        NodeCluster(mark.parent)
    assert mark.read_text() == "in use"
