"""A RayJob's status in our words: every row of the table, and what is in none."""

from __future__ import annotations

from typing import Any

import pytest

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.trainings.cluster_state import Life
from toolorchestra_operator.trainings.job_state import ANY, MOST_WORDS, TABLE, of_job, of_status

GRACE = "JobDeploymentStatusTransitionGracePeriodExceeded"
CHECKS = "JobStatusCheckTimeoutExceeded"
EXIT_1 = "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\nboom\n"
PAUSED = EXIT_1.replace("code 1,", "code 75,")

ROWS: list[tuple[str, str, str, str, Life, Reason, str]] = [
    # jobDeploymentStatus, jobStatus, reason, message: life, reason, words
    ("", "", "", "", "Starting", Reason.CLUSTER_STARTING, "not taken it up"),
    ("Initializing", "", "", "", "Starting", Reason.CLUSTER_STARTING, "RayCluster is coming up"),
    ("Waiting", "", "", "", "Starting", Reason.CLUSTER_STARTING, "nobody submits"),
    ("Retrying", "FAILED", "AppFailed", "", "Starting", Reason.CLUSTER_STARTING, "again"),
    ("Running", "", "", "", "Starting", Reason.CLUSTER_STARTING, "being submitted"),
    ("Running", "PENDING", "", "", "Starting", Reason.CLUSTER_STARTING, "about to start"),
    ("Running", "RUNNING", "", "", "Up", Reason.CLUSTER_READY, "run"),
    ("Running", "SUCCEEDED", "", "", "Succeeded", Reason.STEPS_DONE, "all steps are done"),
    ("Complete", "SUCCEEDED", "", "", "Succeeded", Reason.STEPS_DONE, "all steps are done"),
    ("Complete", "SUCCEEDED", GRACE, "", "Succeeded", Reason.STEPS_DONE, "all steps are done"),
    ("Suspending", "SUCCEEDED", "", "", "Succeeded", Reason.STEPS_DONE, "all steps are done"),
    ("Suspending", "RUNNING", "", "", "Queued", Reason.CLUSTER_STARTING, "ending"),
    ("Suspended", "", "", "", "Queued", Reason.CLUSTER_STARTING, "no pods"),
    ("Running", "FAILED", "", EXIT_1, "Failed", Reason.PROGRAM_FAILED, "boom"),
    ("Complete", "FAILED", "", EXIT_1, "Failed", Reason.PROGRAM_FAILED, "boom"),
    ("Failed", "FAILED", "AppFailed", EXIT_1, "Failed", Reason.PROGRAM_FAILED, "boom"),
    ("Failed", "FAILED", "AppFailed", PAUSED, "Paused", Reason.PROGRAM_FAILED, "boom"),
    ("Failed", "FAILED", "AppFailed", EXIT_1.replace("1,", "130,"), "Stopped", Reason.RESTARTING, "boom"),
    ("Failed", "FAILED", "AppFailed", EXIT_1.replace("1,", "143,"), "Stopped", Reason.RESTARTING, "boom"),
    ("Failed", "FAILED", "AppFailed", EXIT_1.replace("1,", "-15,"), "Stopped", Reason.RESTARTING, "boom"),
    ("Failed", "FAILED", "AppFailed", EXIT_1.replace("1,", "-9,"), "Failed", Reason.PROGRAM_FAILED, "boom"),
    ("Failed", "FAILED", "AppFailed", "Job supervisor actor died", "Failed", Reason.PROGRAM_FAILED, "supervisor"),
    ("Failed", "FAILED", GRACE, EXIT_1, "Failed", Reason.PROGRAM_FAILED, "boom"),
    ("Failed", "FAILED", GRACE, PAUSED, "Paused", Reason.PROGRAM_FAILED, "boom"),
    ("Failed", "", GRACE, "late", "Failed", Reason.PROGRAM_FAILED, "nobody knows how it ended: late"),
    ("Complete", "STOPPED", "", "", "Stopped", Reason.RESTARTING, "was stopped"),
    ("Failed", "STOPPED", "AppFailed", "", "Stopped", Reason.RESTARTING, "was stopped"),
    ("Failed", "", "AppFailed", "Ray head pod not found.", "Stopped", Reason.RESTARTING, "head pod not found"),
    ("Failed", "RUNNING", CHECKS, "5 min", "Stopped", Reason.RESTARTING, "does not answer any more: 5 min"),
    ("Failed", "", CHECKS, "5 min", "Failed", Reason.PROGRAM_FAILED, "never reached the head: 5 min"),
    ("Failed", "PENDING", CHECKS, "", "Failed", Reason.PROGRAM_FAILED, "never reached the head"),
    ("Failed", "", "SubmissionFailed", "no route", "Failed", Reason.PROGRAM_FAILED, "not be submitted: no route"),
    ("Failed", "RUNNING", "DeadlineExceeded", "", "Failed", Reason.PROGRAM_FAILED, "somebody else"),
    ("Failed", "", "PreRunningDeadlineExceeded", "", "Failed", Reason.PROGRAM_FAILED, "somebody else"),
    ("ValidationFailed", "", "ValidationFailed", "no", "Refused", Reason.CLUSTER_REFUSED, "KubeRay refuses it: no"),
]


@pytest.mark.parametrize(("deployment", "job", "reason", "message", "life", "because", "words"), ROWS)
def test_row(deployment: str, job: str, reason: str, message: str, life: Life, because: Reason, words: str) -> None:
    state = of_status(
        {"jobDeploymentStatus": deployment, "jobStatus": job, "reason": reason, "message": message, "failed": 1}
    )
    assert (state.life, state.reason) == (life, because)
    assert words in state.message


def test_every_row_is_tested() -> None:
    found = {next(row for row in TABLE if row.fits(*tested[:3])) for tested in ROWS}
    assert found == set(TABLE)
    assert all(row.life == "ByExit" or row.says for row in TABLE)
    assert (ANY, ANY) not in {(row.deployment, row.job) for row in TABLE}


@pytest.mark.parametrize(
    ("status", "life"),
    [
        ({"jobDeploymentStatus": "Thinking", "jobStatus": "RUNNING"}, "Starting"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "DREAMING"}, "Starting"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "Whim"}, "Failed"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "RUNNING"}, "Failed"),
    ],
)
def test_what_is_not_known_is_said(status: dict[str, str], life: Life) -> None:
    state = of_status(status)
    assert state.life == life
    assert "not known here" in state.message
    assert all(word in state.message for word in status.values())


def test_words_are_cut_to_their_end() -> None:
    state = of_status({"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed", "message": "x" * 20_000 + "end"})
    assert len(state.message) < MOST_WORDS + 100
    assert state.message.endswith("end")


def job(*, suspend: bool = False, **status: Any) -> dict[str, Any]:
    return {"spec": {"suspend": suspend}, "status": status}


RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


def test_a_flag_suspends_before_kuberay_has_seen_it_and_ends_nothing_that_has_ended() -> None:
    assert of_job(job(suspend=True), ()).life == "Queued"
    assert of_job(job(suspend=True, **RUNNING), ()).life == "Queued"
    assert of_job(job(suspend=True, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED"), ()).life == "Succeeded"


def test_a_cluster_that_lacks_a_node_is_not_up() -> None:
    counts = {"desiredWorkerReplicas": 2, "readyWorkerReplicas": 1}
    state = of_job(job(**RUNNING, rayClusterStatus=counts), ())
    assert (state.life, state.message) == ("Starting", "trainers and engines: 1 of 2 ready")
    assert of_job(job(**RUNNING, rayClusterStatus={**counts, "readyWorkerReplicas": 2}), ()).life == "Up"


def pod(terminated: dict[str, Any] | None, *, when: str = "lastState") -> dict[str, Any]:
    ended = {} if terminated is None else {when: {"terminated": terminated}}
    return {"metadata": {"name": "trainers"}, "status": {"containerStatuses": [{"name": "trainers", **ended}]}}


@pytest.mark.parametrize("evidence", ["a pod is missing", "Ray says it"])
def test_a_trainer_lost_with_its_node_is_nobodys_failure(evidence: str) -> None:
    exit_76, died = EXIT_1.replace("code 1,", "code 76,"), "The actor died because its node has died. Node Id: 1"
    failed = job(jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", message=exit_76)
    assert of_job(failed, [pod(None)]).life == "Failed", "nothing speaks for a lost node"
    if evidence == "Ray says it":
        failed["status"]["message"] += died
    else:
        failed["status"]["rayClusterStatus"] = {"desiredWorkerReplicas": 2, "readyWorkerReplicas": 1}
    state = of_job(failed, [pod(None), pod({"exitCode": 143})])
    assert (state.life, state.reason) == ("Stopped", Reason.RESTARTING)
    assert "a node was lost: boom" in state.message
    assert of_job(failed, [pod({"exitCode": 137, "reason": "OOMKilled"})]).life == "Failed"
    assert of_job(failed, [pod({"exitCode": 1}, when="state")]).life == "Failed"
    failed["status"]["message"] = failed["status"]["message"].replace("code 76,", "code 1,")
    assert of_job(failed, [pod(None)]).life == "Failed", "the program failed, and said so"
