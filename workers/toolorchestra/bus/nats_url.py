"""Hides the credentials in NATS URLs (`nats://user:password@host`, `nats://token@host`), and checks such URLs.

Invariant: every text that a person may read (a condition, an event, a log, a ConfigMap) has passed through `shown`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_SCHEMES: Final = ("nats", "tls", "ws", "wss")
# Up to the last @ of each URL: a password may have characters that a URL should not have.
_USER_INFO: Final = re.compile(rf"://(?:(?!,\s*(?:{'|'.join(_SCHEMES)})://)\S)*@")
_EXAMPLE: Final = "want a NATS URL such as nats://host:4222, or several with commas between"


def shown(text: str) -> str:
    """Return the text without the credentials of the URLs in it."""
    return _USER_INFO.sub("://", text)


def told(url: str) -> str:
    """Return `shown(url)`. If the text is not a URL, return only what follows its last @, which has no credentials."""
    bare = shown(url)
    return f"…@{bare.rpartition('@')[2]}" if "@" in bare else bare


def has_credentials(url: str) -> bool:
    """Return whether the URL has credentials."""
    return shown(url) != url


def servers(url: str) -> list[str]:
    """Return the servers in one URL. Any server of a cluster is enough."""
    return [part.strip() for part in url.split(",")]


def mistake(url: str) -> str:
    """Return what is wrong with a URL, without its credentials; empty: nothing."""
    bare = told(url)
    for part in servers(url):
        try:
            split = urlsplit(part)
            host, port = split.hostname, split.port
        except ValueError:
            return f"{bare!r}: its host or port cannot be read; {_EXAMPLE}"
        if split.scheme not in _SCHEMES or re.search(r"\s", part):
            return f"{bare!r} is not a NATS URL; {_EXAMPLE}"
        if not host or port == 0:
            return f"{bare!r} has no host, or port 0; {_EXAMPLE}"
    return ""
