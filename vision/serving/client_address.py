"""The client's address, which a proxy in front of the server passes on in a header."""

import ipaddress
from collections.abc import Iterable

from vision.errors import UserError

HEADERS = ("x-forwarded-for", "forwarded")
MAX_HOPS = 32  # proxies between a client and the server

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientAddresses:
    """Tells clients' addresses.

    Each proxy appends the address that it was called from. So the client is the last address that
    is not a trusted proxy's; whatever comes before it may be the client's invention, as is the
    whole header if the caller itself is not trusted.

    Args:
        proxies: addresses and networks of the proxies that are trusted, with commas between them.
        header: the header that they write, one of `HEADERS`.

    Raises:
        UserError: one of `proxies` is neither.
    """

    def __init__(self, proxies: str, header: str):
        self._networks = [_network(text.strip()) for text in proxies.split(",") if text.strip()]
        self._header = header

    def client(self, peer: str, headers: Iterable[tuple[str, str]]) -> str:
        """Returns the address of the client behind a connection.

        Args:
            peer: the address at the other end of the connection.
            headers: all (lower-case name, value) of the request, in their order.
        """
        if not self._networks:
            return peer
        address = _address(peer)
        if address is None or not self._is_trusted(address):
            return peer
        # there may be several such headers: the one that the client sent, and the proxy's
        value = ",".join(value for name, value in headers if name == self._header)
        for hop in reversed(value.split(",")[-MAX_HOPS:]):
            behind = _address(_for(hop) if self._header == "forwarded" else hop)
            if behind is None:
                break
            address = behind
            if not self._is_trusted(address):
                break
        return str(address)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise UserError(
            f"--trusted-proxies: {text!r} is neither an address nor a network such as 10.0.0.0/8"
        ) from error


def _address(text: str) -> Address | None:
    """Returns an address, which may have brackets and a port; None if it is none."""
    text = text[:128].strip().strip('"')
    host = text.partition(":")[0] if text.count(":") == 1 else text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _for(element: str) -> str:
    """Returns the address in an element of the header Forwarded (RFC 7239); "" if it has none."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value
    return ""
