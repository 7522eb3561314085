"""NATS URLs, which may hold credentials (`nats://user:password@host`, `nats://token@host`): as they are shown.

Invariant: what a person may read (a condition, an event, a log, a ConfigMap) has been through `shown`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_SCHEMES: Final = ("nats", "tls", "ws", "wss")
# Up to the last @ of each URL: a password may hold what a URL should not.
_USER_INFO: Final = re.compile(rf"://(?:(?!,\s*(?:{'|'.join(_SCHEMES)})://)\S)*@")
_EXAMPLE: Final = "want a NATS URL such as nats://host:4222, or several with commas between"


def shown(text: str) -> str:
    """Any text without the credentials of the URLs in it."""
    return _USER_INFO.sub("://", text)


def told(url: str) -> str:
    """What somebody wrote for a URL, as `shown`; where it is none, only what follows its last @ is certain."""
    bare = shown(url)
    return f"…@{bare.rpartition('@')[2]}" if "@" in bare else bare


def has_credentials(url: str) -> bool:
    """Whether the URL is a secret."""
    return shown(url) != url


def servers(url: str) -> list[str]:
    """The servers of one URL: of a cluster any of them will do."""
    return [part.strip() for part in url.split(",")]


def mistake(url: str) -> str:
    """What is wrong with a URL, in words that hold nothing of its credentials; empty: nothing."""
    bare = told(url)
    for part in servers(url):
        try:
            split = urlsplit(part)
            host, port = split.hostname, split.port
        except ValueError:
            return f"{bare!r}: its host or port cannot be read; {_EXAMPLE}"
        if split.scheme not in _SCHEMES or re.search(r"\s", part):
            return f"{bare!r} is no NATS URL; {_EXAMPLE}"
        if not host or port == 0:
            return f"{bare!r} names no host, or no port that there is; {_EXAMPLE}"
    return ""
