"""Checks whether the experts' hosts have an address: a typo would look like an outage, and the run would wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

from toolorchestra.api.pool import ExpertPool
from toolorchestra.local.plan import SIMULATOR_HOST

LOOKUP_SECONDS = 3.0


def unknown_hosts(pools: Sequence[ExpertPool], *, known: Callable[[str], bool]) -> Iterator[str]:
    """Yield a warning for each host without an address; not an error, because it may have one later."""
    names: dict[str, list[str]] = {}
    for pool in pools:
        host = urlsplit(pool.spec.endpoint.url).hostname if pool.spec.endpoint else None
        if host and host != SIMULATOR_HOST:
            names.setdefault(host, []).append(pool.metadata.name)
    for host, experts in names.items():
        if not known(host):
            yield f"expert {', '.join(experts)}: the host {host} has no address here; check it, or the run will wait"


def has_address(host: str) -> bool:
    """Return False only where the resolver is certain that the host has no address. Experts never use a proxy."""
    found = [True]

    def look() -> None:
        try:
            socket.getaddrinfo(host, None)
        except (socket.gaierror, UnicodeError) as error:
            found[0] = getattr(error, "errno", socket.EAI_NONAME) != socket.EAI_NONAME

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(LOOKUP_SECONDS)
    return found[0]
