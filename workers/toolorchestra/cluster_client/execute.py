"""Runs a command in a container with the exec API, and streams its stdout.

Invariant: either all bytes of stdout are yielded, or the iterator raises.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from kubernetes.stream.ws_client import create_websocket
from websocket import ABNF, WebSocketBadStatusException, WebSocketException, WebSocketTimeoutException

from toolorchestra.cluster_client.errors import ClusterError, Unreachable, failure
from toolorchestra.cluster_client.kube import Kube
from toolorchestra.kube.kinds import PODS

_STDOUT, _STDERR, _ENDED = 1, 2, 3
_KEPT_STDERR = 4000
"""How many bytes from the end of stderr are kept for the error."""
SILENT_SECONDS = 300.0
"""A command that writes nothing for this long counts as lost."""


class CommandFailed(ClusterError):
    """The command ended with another status than 0; the text has the end of its stderr."""


def execute(
    kube: Kube, pod: str, command: Sequence[str], *, namespace: str, container: str, silent: float = SILENT_SECONDS
) -> Iterator[bytes]:
    """Run `command` and yield its stdout in pieces.

    Raises:
        CommandFailed: the command ended with another status than 0, or could not be started.
        NotAuthorised: the user may not `create pods/exec`.
        Unreachable: the connection broke, or was silent for `silent` seconds.
    """
    socket = _open(kube, pod, command, namespace=namespace, container=container)
    errors = b""
    try:
        socket.settimeout(silent)
        while True:
            opcode, frame = socket.recv_data_frame(True)
            if opcode == ABNF.OPCODE_CLOSE:
                raise Unreachable(f"the connection to pod {pod} ended before the command did")
            if opcode not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or len(frame.data) < 2:
                continue
            channel, data = frame.data[0], bytes(frame.data[1:])
            if channel == _STDOUT:
                yield data
            elif channel == _STDERR:
                errors = (errors + data)[-_KEPT_STDERR:]
            elif channel == _ENDED:
                _check(json.loads(data), errors, command)
                return
    except WebSocketTimeoutException as error:
        raise Unreachable(f"pod {pod} sent nothing for {silent:.0f} seconds: try again") from error
    except (WebSocketException, OSError) as error:
        raise Unreachable(f"the connection to pod {pod} broke: {error}") from error
    finally:
        socket.close()


def _open(kube: Kube, pod: str, command: Sequence[str], *, namespace: str, container: str) -> Any:
    path = PODS.path(namespace=namespace, name=pod, part="exec")
    prepared = kube.client.param_serialize(method="GET", resource_path=path, auth_settings=["BearerToken"])
    query = [("command", part) for part in command]
    query += [("container", container), ("stdout", "true"), ("stderr", "true"), ("stdin", "false"), ("tty", "false")]
    url = f"{prepared[1]}?{urlencode(query)}".replace("http", "ws", 1)
    try:
        return create_websocket(kube.client.configuration, url, prepared[2])  # type: ignore[no-untyped-call]
    except WebSocketBadStatusException as error:
        answer = error.resp_body or b""
        about = {"verb": "create", "resource": f"pods/exec {pod}", "namespace": namespace}
        raise failure(error.status_code, _parsed(answer), **about) from error
    except (WebSocketException, OSError, ssl.SSLError) as error:
        raise Unreachable(f"cannot reach pod {pod} through {kube.named}: {error}") from error


def _parsed(answer: bytes | str) -> dict[str, Any] | str:
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    try:
        parsed = json.loads(text)
    except ValueError:
        return text
    return parsed if isinstance(parsed, dict) else text


def _check(status: dict[str, Any], errors: bytes, command: Sequence[str]) -> None:
    """Read the last frame; CommandFailed unless it reports Success."""
    if status.get("status") == "Success":
        return
    words = errors.decode(errors="replace").strip() or str(status.get("message") or "no reason given")
    raise CommandFailed(f"{command[0]} failed in the pod: {words}")
