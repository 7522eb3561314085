"""A host with a typo is said before a run waits for it as for an outage."""

from __future__ import annotations

import socket
import threading
from typing import Any, NoReturn

import pytest

from support.run_rig import endpoint_pool
from toolorchestra.api.pool import ExpertPool
from toolorchestra.local import reach
from toolorchestra.local.reach import has_address, unknown_hosts


def pool(name: str, host: str) -> ExpertPool:
    return ExpertPool.model_validate(endpoint_pool(name, url=f"http://{host}/v1", model=name))


def test_each_host_is_asked_for_once_and_the_simulator_never() -> None:
    asked: list[str] = []

    def known(host: str) -> bool:
        asked.append(host)
        return host == "10.0.0.1"

    pools = [pool("oak", "simulator"), pool("ash", "modles.example"), pool("elm", "modles.example")]
    said = list(unknown_hosts([*pools, pool("fir", "10.0.0.1:8000")], known=known))
    assert said == ["expert ash, elm: the host modles.example has no address here; check it, or the run will wait"]
    assert asked == ["modles.example", "10.0.0.1"]


@pytest.mark.parametrize(("code", "known"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_only_what_is_certain_counts(code: int, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> NoReturn:
        raise socket.gaierror(code, "words")

    monkeypatch.setattr(reach.socket, "getaddrinfo", fail)
    assert has_address("a.example") is known


def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    monkeypatch.setattr(reach.socket, "getaddrinfo", lambda *_: stopped.wait())
    monkeypatch.setattr(reach, "LOOKUP_SECONDS", 0.01)
    assert has_address("a.example")
    stopped.set()
