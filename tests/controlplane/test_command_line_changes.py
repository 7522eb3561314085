"""Commands that change a training on a real API server: submit, suspend, resume, cancel.

What the operator would write into status, the test writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support.cluster.command_line import COMPLETE, RUNNING, TINY, Run, condition, path, play
from support.run_rig import app, orchestra
from testbed.api import Api, Refused
from testbed.cluster import Cluster
from toolorchestra.cluster_client.kube import Kube
from toolorchestra.kube.kinds import Kind

GIVEN_BACK = condition("Suspended", "True", "SuspendedByUser", "compute is given back")


@contextmanager
def beside(act: Callable[[], None]) -> Iterator[None]:
    """While the block runs; what goes wrong there goes wrong here."""
    wrong: list[BaseException] = []

    def acting() -> None:
        try:
            act()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=acting)
    thread.start()
    yield
    thread.join()
    assert not wrong, wrong


def until(seen: Callable[[], bool], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Looks:
    """The command's looks at trainings, counted as they end; it makes one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun = self._ended = 0
        self._news = threading.Condition()
        real = Kube.find

        def find(kube: Kube, kind: Kind, name: str, **options: Any) -> Any:
            with self._news:
                self._begun += 1
            found = real(kube, kind, name, **options)
            with self._news:
                self._ended += 1
                self._news.notify_all()
            return found

        monkeypatch.setattr(Kube, "find", find)

    def one_more(self) -> None:
        """Return when one has ended that had not begun yet."""
        with self._news:
            wanted = self._begun + 1
            assert self._news.wait_for(lambda: self._ended >= wanted, timeout=60)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


# ── submit ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_submit_creates_pools_first_and_changes_nothing_twice(run: Run, namespace: str, tmp_path: Path) -> None:
    pool, training = "ExpertPool", "OrchestratorTraining"
    first = run("submit", "-f", TINY).stdout.splitlines()
    assert first == [
        f"{pool} {namespace}/small created",
        f"{pool} {namespace}/large created",
        f"{training} {namespace}/tiny created",
        f"follow it with: orchestra status tiny -n {namespace} --watch",
    ]
    again = run("submit", "-f", TINY).stdout
    assert [line.split()[-1] for line in again.splitlines()[:3]] == ["unchanged"] * 3
    changed = tmp_path / "changed.yaml"
    changed.write_text(TINY.read_text().replace("Small and cheap.", "Small."))
    words = [line.split()[-1] for line in run("submit", "-f", changed).stdout.splitlines()[:3]]
    assert words == ["configured", "unchanged", "unchanged"]


def test_what_the_server_refuses_is_said_before_anything_is_changed(
    run: Run, api: Api, namespace: str, tmp_path: Path
) -> None:
    run("submit", "-f", TINY)
    changed = tmp_path / "changed.yaml"
    changed.write_text(TINY.read_text().replace("Small and cheap.", "Small.").replace("steps: 10", "steps: 11"))
    said = run("submit", "-f", changed, status=2).stderr
    assert "spec.algorithm" in said
    assert "immutable" in said
    assert api.get(path(namespace, "expertpools", "small"))["spec"]["description"] == "Small and cheap."


def test_another_owners_field_is_a_conflict_until_it_is_taken_over(
    run: Run, api: Api, namespace: str, tmp_path: Path
) -> None:
    run("submit", "-f", TINY)
    api.merge(path(namespace, "expertpools", "small"), {"spec": {"expectedLatencyMilliseconds": 7}}, manager="kubectl")
    said = run("submit", "-f", TINY, status=1).stderr
    assert 'conflict with "kubectl"' in said
    assert "--force-conflicts" in said
    run("submit", "-f", TINY, "--force-conflicts")
    assert api.get(path(namespace, "expertpools", "small"))["spec"]["expectedLatencyMilliseconds"] == 500


def test_a_namespace_that_is_not_there(cluster: Cluster) -> None:
    said = orchestra("submit", "-f", TINY, "--kubeconfig", cluster.kubeconfig, "-n", "nowhere", status=2).stderr
    assert 'namespaces "nowhere" not found' in said


def test_submit_and_wait_ends_as_the_training_does(run: Run, api: Api, namespace: str, looks: Looks) -> None:
    def operate() -> None:
        until(lambda: _is_there(api, namespace))
        play(api, namespace, *RUNNING, step=3)
        looks.one_more()
        play(api, namespace, *COMPLETE, step=10)

    with beside(operate):
        said = run("submit", "-f", TINY, "--wait").stdout
    assert "tiny: Running: step 3 of 10" in said
    assert "tiny: Complete: StepsDone" in said
    assert f"orchestra get-model tiny -n {namespace}" in said


def _is_there(api: Api, namespace: str) -> bool:
    try:
        api.get(path(namespace))
    except Refused:
        return False
    return True


# ── suspend, resume ────────────────────────────────────────────────────────────────────────────────────────────────


def test_suspend_and_resume_set_one_field(run: Run, api: Api, namespace: str) -> None:
    run("submit", "-f", TINY)
    play(api, namespace, *RUNNING)
    assert "suspending, with a checkpoint" in run("suspend", "tiny").stdout
    assert api.get(path(namespace))["spec"]["suspend"] is True
    assert "suspended already" in run("suspend", "tiny").stdout
    assert "unchanged" in run("submit", "-f", TINY).stdout, "giving the file again does not resume it"
    play(api, namespace, GIVEN_BACK, condition("Accepted", "True", "Accepted"))
    assert run("suspend", "tiny", "--wait").exit_code == 0
    assert "continuing from its last checkpoint" in run("resume", "tiny").stdout
    assert api.get(path(namespace))["spec"]["suspend"] is False
    assert "not suspended" in run("resume", "tiny").stdout


def test_what_ended_is_left_alone(run: Run, api: Api, namespace: str) -> None:
    run("submit", "-f", TINY)
    play(api, namespace, *COMPLETE)
    assert "nothing to suspend" in run("suspend", "tiny").stdout
    assert "is Complete, not suspended" in run("resume", "tiny").stdout
    said = run("cancel", "tiny", "--yes").stdout
    assert "nothing to cancel" in said
    assert api.get(path(namespace))["spec"].get("suspend") is False


# ── cancel ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cancel_waits_for_the_last_checkpoint(run: Run, api: Api, namespace: str, looks: Looks) -> None:
    run("submit", "-f", TINY)
    play(api, namespace, *RUNNING)

    def operate() -> None:
        until(lambda: api.get(path(namespace))["spec"]["suspend"] is True)
        play(api, namespace, condition("Suspended", "True", "Suspending", "waiting for the last checkpoint"))
        looks.one_more()
        looks.one_more()
        assert _is_there(api, namespace), "not before its compute is given back"
        play(api, namespace, GIVEN_BACK)

    with beside(operate):
        said = run("cancel", "tiny", "--yes").stdout
    assert "waiting for the last checkpoint" in said
    assert "kept: PersistentVolumeClaim tiny-storage" in said
    assert "tiny is deleted" in said
    assert not _is_there(api, namespace)


def test_cancel_asks(run: Run, api: Api, cluster: Cluster, namespace: str) -> None:
    run("submit", "-f", TINY)
    play(api, namespace, *RUNNING)
    command = ["cancel", "tiny", "--kubeconfig", str(cluster.kubeconfig), "-n", namespace]
    no = CliRunner().invoke(app, command, input="n\n")
    assert (no.exit_code, "nothing was changed" in no.stdout) == (0, True)
    nobody = CliRunner().invoke(app, command, input="")
    assert (nobody.exit_code, "--yes confirms in advance" in nobody.stderr) == (2, True)
    assert api.get(path(namespace))["spec"].get("suspend") is False
    run("cancel", "tiny", "--yes", "--no-wait")
    assert not _is_there(api, namespace)
