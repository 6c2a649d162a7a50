"""Clients' addresses: whose requests and connections are counted together."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

__all__ = ["is_among", "is_loopback", "owner", "plain"]

_IPV6_SUBSCRIBER_BITS = 64


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own: ``localhost``, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    address = _read(host.strip("[]"))
    return address is not None and address.is_loopback


def plain(host: str) -> str:
    """An address as it is usually written: ``127.0.0.1`` for the ``::ffff:127.0.0.1`` of an IPv6 socket."""
    address = _read(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return host if mapped is None else str(mapped)


def owner(host: str) -> str:
    """What stands for a client in limits: its IPv4 address, or the /64 network that one IPv6 subscriber has."""
    address = _read(plain(host))
    if not isinstance(address, ipaddress.IPv6Address):
        return host if address is None else str(address)
    return str(ipaddress.ip_network((int(address), _IPV6_SUBSCRIBER_BITS), strict=False))


def is_among(host: str, networks: Sequence[str]) -> bool:
    """Whether an address is one of some addresses, or in one of some networks."""
    address = _read(host)
    return address is not None and any(address in ipaddress.ip_network(network, False) for network in networks)


def _read(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
