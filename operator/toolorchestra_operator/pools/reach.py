"""Which hosts may be experts, and which addresses are never called. Pure.

A tenant writes a pool's URL, and the operator can reach what a tenant may not. So a host has to be on the list, and its
address is checked too, when the connection is made: a name may resolve to any address.

| its address | called |
| --- | --- |
| of the node itself, link-local (clouds' metadata), multicast, the API server's | never |
| public | if the list has the host, or `*` |
| private | if the list has the host, or the address's network; `*` is not enough |
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY: Final = "*"
NEVER: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/128", "::1/128", "fe80::/10", "fec0::/10", "ff00::/8"),
        # Metadata addresses of clouds that are not link-local.
        *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd20:ce::254/128"),
    )
)
_LISTED: Final = re.compile(r"(\*\.)?[A-Za-z0-9_]([-.A-Za-z0-9_]*[A-Za-z0-9_])?")
_NUMBERS: Final = re.compile(r"(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+)){0,3}")
"""Other spellings of addresses: 127.1, 0x7f.1 and 2130706433 are 127.0.0.1."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_VALUE: Final = "pools.allowedHosts of the chart"


@dataclass(frozen=True)
class Reach:
    """The allowed hosts: `*`, `*.example.com`, a host, an address, or a network such as 10.8.0.0/16."""

    hosts: tuple[str, ...] = (ANY,)
    api_server: tuple[str, int] | None = None
    """The API server's host and port."""
    never: tuple[Network, ...] = NEVER

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """The networks of the list."""
        return tuple(network for host in self.hosts if (network := network_of(host)) is not None)

    def refuses(self, host: str) -> str | None:
        """Return why a URL with this host cannot be an expert's; None: it can, if its address is allowed."""
        if (address := address_of(host)) is not None:
            return self.refuses_address(host, address)
        if ANY in self.hosts or self._names(host):
            return None
        return _unlisted(host)

    def refuses_address(self, host: str, address: Address, *, inside: bool = False) -> str | None:
        """Return why this address of `host` is not called. `inside`: it is a Service that the operator created."""
        plain = _plain(address)
        if any(plain in network for network in self.never):
            return f"{host} is an address at which no expert is ever asked: the node's own, link-local, or no host's"
        if inside or self._names(host) or any(plain in network for network in self.networks):
            return None
        if not plain.is_global:
            return f"{host} has a private address: the host itself or its network has to be on the list: {_VALUE}"
        return None if ANY in self.hosts or address_of(host) is None else _unlisted(host)

    def _names(self, host: str) -> bool:
        name = _normal(host)
        return any(
            name.endswith(listed[1:]) if listed.startswith("*.") else name == listed
            for listed in map(_normal, self.hosts)
            if listed != ANY
        )


def _unlisted(host: str) -> str:
    return f"{host} is not among the hosts that may be experts; whoever runs the operator can add it: {_VALUE}"


def is_listable(listed: str) -> bool:
    """Return whether the text can be an entry of the list."""
    return listed == ANY or network_of(listed) is not None or bool(_LISTED.fullmatch(listed))


def network_of(listed: str) -> Network | None:
    """Return an entry of the list that is an address or a network."""
    try:
        return ipaddress.ip_network(listed, strict=False)
    except ValueError:
        return None


def host_of(url: str) -> str:
    """Return the host of a URL that the models accepted."""
    return URL(url).raw_host or ""


def address_of(host: str) -> Address | None:
    """Return the address if the URL's host is one, in any spelling that programs accept; None: it is a name."""
    plain = _normal(host).partition("%")[0]
    try:
        return ipaddress.ip_address(socket.inet_aton(plain) if _NUMBERS.fullmatch(plain) else plain)
    except (ValueError, OSError):
        return None


def _normal(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")


def _plain(address: Address) -> Address:
    """Return the IPv4 address of an IPv6 address that stands for it, else the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
