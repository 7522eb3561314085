"""The audit log as the API server writes it: one line per write, the last of which may be half written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from testbed.audit import AuditLog, Write


def event(**changes: Any) -> str:
    return json.dumps(
        {
            "kind": "Event",
            "stage": "ResponseComplete",
            "stageTimestamp": "1970-01-01T00:00:02.500000Z",
            "requestURI": "/apis/apps/v1/namespaces/a/deployments/b?fieldManager=toolorchestra&force=true",
            "verb": "patch",
            "user": {"username": "admin", "groups": []},
            "userAgent": "toolorchestra-operator/0.1",
            "objectRef": {"resource": "deployments", "apiGroup": "apps", "namespace": "a", "name": "b"},
            "responseStatus": {"code": 200},
        }
        | changes
    )


def test_a_line_is_one_write(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    log.path.write_text(event() + "\n")
    assert log.writes() == [
        Write(
            at=2.5,
            verb="patch",
            resource="deployments.apps",
            namespace="a",
            name="b",
            user="admin",
            user_agent="toolorchestra-operator/0.1",
            field_manager="toolorchestra",
            dry_run=False,
            code=200,
        )
    ]
    assert str(log.writes()[0]) == "patch deployments.apps a/b by toolorchestra-operator/0.1 as toolorchestra: 200"


def test_sub_resources_and_dry_runs_are_told_apart(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    status = {"resource": "pods", "namespace": "a", "name": "b", "subresource": "status"}
    log.path.write_text(event(objectRef=status, requestURI="/api/v1/namespaces/a/pods/b/status?dryRun=All") + "\n")
    (write,) = log.writes()
    assert write.resource == "pods/status"
    assert write.dry_run


def test_only_what_came_after_a_position_and_only_of_whom_is_asked(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    assert log.position() == 0
    assert log.writes() == []
    log.path.write_text(event() + "\n")
    since = log.position()
    with log.path.open("a") as file:
        file.write(event(userAgent="kubectl/1.34") + "\n")
        file.write(event(objectRef={"resource": "pods", "namespace": "other", "name": "c"}) + "\n")
    assert [write.user_agent for write in log.writes(since=since)] == ["kubectl/1.34", "toolorchestra-operator/0.1"]
    assert len(log.writes(user_agent="toolorchestra-operator")) == 2
    assert [write.name for write in log.writes(namespace="other")] == ["c"]


def test_a_line_half_written_is_left_for_later(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    log.path.write_text(event() + "\n" + event()[:40])
    assert len(log.writes()) == 1
